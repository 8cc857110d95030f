// rms_norm of whole rows: a workgroup to a row. With a residual, x becomes their sum first, unless nobody
// reads it again. The rows stored may be some of the rows of x, packed.
struct Params {
    x_at: u32,      // of row 0 of x, in vec4<f32>
    x_stride: u32,  // vec4<f32> from a row of x to the next
    x_quads: u32,   // vec4<f32> of a row, zeros behind it included
    summed: u32,    // 1: x + residual is stored in x
    packed: u32,    // 1: rows_at names the rows; 0: they are those of x
    padding_0: u32, // a struct begins at a whole vec4
    padding_1: u32,
    padding_2: u32,
    norm: Norm,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>;  // (rows, x_stride), zeros behind
@group(0) @binding(2) var<storage, read> vectors: array<vec4<f32>>;  // the norms' weights
@group(0) @binding(3) var<storage, read> tables: array<u32>;         // rows
#include "lib/target_${TARGET}.wgsl" BINDING=4 NAME=normed
#repeat i ${RESIDUALS}
@group(0) @binding(${RESIDUAL_BINDING}) var<storage, read> add: array<vec4<f32>>;  // (rows, add_stride)
#end

#include "lib/grid.wgsl"
#include "lib/fma_quad.wgsl"
#include "lib/norm.wgsl"

fn x_before(row: u32, quad: u32) -> vec4<f32> {
    return x[params.x_at + row * params.x_stride + quad];
}

@compute @workgroup_size(${WORKGROUP})
fn rms_norm(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.norm.rows) {
        return;
    }
    var row = index;
    if (params.packed == 1u) {
        row = tables[params.norm.rows_at + index];
    }
    let by = norm_of(thread, row);
    for (var quad = thread; quad < params.x_quads; quad += ${WORKGROUP}u) {
        let sum = summed(row, quad, by.x);
        let value = normed_quad(sum, quad, by);
        if (params.summed == 1u) {
            x[params.x_at + row * params.x_stride + quad] = sum;
        }
        store_normed(params.norm.normed_at + index * params.norm.normed_stride + quad, value);
    }
}
