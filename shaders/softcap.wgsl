// softcap: x = cap · tanh(x / cap), element by element, in place. Zeros stay zeros.
struct Params {
    rows: u32,
    quads: u32,       // vec4<f32> of a row, zeros behind it included
    row_groups: u32,  // workgroups to a row
    x_at: u32,        // of row 0, in vec4<f32>
    x_stride: u32,    // vec4<f32> from a row to the next
    cap: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>;  // (rows, x_stride)

#include "lib/grid.wgsl"
#include "lib/tanh.wgsl" NAME=quad TYPE=vec4<f32>

@compute @workgroup_size(${WORKGROUP})
fn softcap(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let row = index / params.row_groups;
    let quad = (index % params.row_groups) * ${WORKGROUP}u + thread;
    if (row >= params.rows || quad >= params.quads) {
        return;
    }
    let at = params.x_at + row * params.x_stride + quad;
    let scaled = x[at] / params.cap;
    x[at] = params.cap * tanh_quad(scaled);
}
