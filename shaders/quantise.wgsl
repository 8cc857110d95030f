// quantise: rows of x as blocks of act=q8_0, once for all output tiles of a matmul of prompt rows. A thread takes a
// block. A row of the result is the codes of its blocks, 8 words each, then their scales, to a whole vec4.
struct Params {
    rows: u32,
    rows_at: u32,     // their numbers, in tables
    blocks: u32,      // of a row
    row_groups: u32,  // workgroups to a row
    x_at: u32,        // of row 0 of x, in vec4<f32>
    x_stride: u32,    // vec4<f32> from a row of x to the next
    out_stride: u32,  // u32 from a row of the result to the next
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;          // (rows, x_stride)
@group(0) @binding(2) var<storage, read> tables: array<u32>;           // row numbers
@group(0) @binding(3) var<storage, read_write> quantised: array<u32>;  // (rows, out_stride)

#include "lib/grid.wgsl"
#include "lib/half_${HALF}.wgsl"
#include "lib/quantise.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn quantise(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let of_list = index / params.row_groups;
    let block = (index % params.row_groups) * ${WORKGROUP}u + thread;
    if (of_list >= params.rows || block >= params.blocks) {
        return;
    }
    let row = tables[params.rows_at + of_list];
    let quad_at = params.x_at + row * params.x_stride + 8u * block;
    var largest = 0u;
#repeat q 8
    let quad_${q} = x[quad_at + ${q}u];
    largest = largest_of(quad_${q}, largest);
#end
    let by = to_codes(largest);
    let row_at = row * params.out_stride;
#repeat q 8
    quantised[row_at + 8u * block + ${q}u] = codes_of(quad_${q}, by);
#end
    quantised[row_at + 8u * params.blocks + block] = bitcast<u32>(kept_scale(largest));
}
