// add: x += columns of a tensor that may be wider, element by element, in place. Zeros behind a row stay. A thread takes one
// element: the columns begin anywhere, and not only where a vec4 does.
struct Params {
    rows: u32,
    cols: u32,          // of x
    row_groups: u32,    // workgroups to a row
    x_at: u32,          // of row 0 of x
    x_stride: u32,      // f32 from a row of x to the next
    added_at: u32,      // of the first column of row 0
    added_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // (rows, x_stride)
@group(0) @binding(2) var<storage, read> added: array<f32>;    // (rows, added_stride)

#include "lib/grid.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn add(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let row = index / params.row_groups;
    let col = (index % params.row_groups) * ${WORKGROUP}u + thread;
    if (row >= params.rows || col >= params.cols) {
        return;
    }
    x[params.x_at + row * params.x_stride + col] += added[params.added_at + row * params.added_stride + col];
}
