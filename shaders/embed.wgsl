// embed: rows of the embedding, scaled; the table is ${DTYPE}. A thread unpacks one unit of a row. The table may
// be split over buffers: a dispatch serves the rows whose token is in its part.
struct Params {
    rows: u32,
    tokens_at: u32,    // of each row, in tables
    first: u32,        // the first token in this buffer
    tokens: u32,       // tokens in this buffer
    codes_at: u32,     // of the first, in vec4<u32>
    scales_at: u32,    // in u32
    row_units: u32,    // vec4<u32> in a row of the table
    scale_words: u32,  // u32 of scales in a row of the table
    row_groups: u32,   // workgroups to a row
    out_at: u32,       // of row 0 of out, in vec4<f32>
    out_stride: u32,   // vec4<f32> from a row to the next
    out_quads: u32,    // vec4<f32> of a row, zeros behind it included
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;    // (tokens, row_units), scales
@group(0) @binding(2) var<storage, read> tables: array<u32>;           // tokens
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;  // (rows, out_stride)

#include "lib/grid.wgsl"
#include "lib/half_${HALF}.wgsl"
#include "lib/weight_${DTYPE}.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn embed(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let row = index / params.row_groups;
    if (row >= params.rows) {
        return;
    }
    let token = tables[params.tokens_at + row];
    if (token < params.first || token - params.first >= params.tokens) {
        return;
    }
    let unit_at = (index % params.row_groups) * ${WORKGROUP}u + thread;
    if (unit_at * ${UNIT_QUADS}u >= params.out_quads) {
        return;
    }
    let row_of = token - params.first;
    let inside = unit_at < params.row_units;
    let safe = min(unit_at, params.row_units - 1u);
    let unit = select(vec4<u32>(), weights[params.codes_at + row_of * params.row_units + safe], inside);
    let scales = span_scales(params.scales_at + row_of * params.scale_words, safe);
    let scale = unit_scale(scales, safe % ${SPAN}u);
#repeat q ${UNIT_QUADS}
    if (unit_at * ${UNIT_QUADS}u + ${q}u < params.out_quads) {
        let value = select(vec4<f32>(), unit_quad(unit, ${q}u) * scale * params.scale, inside);
        out[params.out_at + row * params.out_stride + unit_at * ${UNIT_QUADS}u + ${q}u] = value;
    }
#end
}
