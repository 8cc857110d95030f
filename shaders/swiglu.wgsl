// swiglu: out = activation(gate) · up, element by element, the zeros behind a row included. out may be gate.
struct Params {
    rows: u32,
    quads: u32,        // vec4<f32> of a row, zeros behind it included
    row_groups: u32,   // workgroups to a row
    gate_at: u32,      // of row 0, in vec4<f32>
    gate_stride: u32,  // vec4<f32> from a row to the next
    up_at: u32,
    up_stride: u32,
    out_at: u32,
    out_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>;  // gate: (rows, gate_stride)
@group(0) @binding(2) var<storage, read> up: array<vec4<f32>>;       // (rows, up_stride)
#include "lib/target_${TARGET}.wgsl" BINDING=3 NAME=out

#include "lib/grid.wgsl"
#include "lib/activation_${ACTIVATION}.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn swiglu(
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
    let gate = x[params.gate_at + row * params.gate_stride + quad];
    let activated = vec4<f32>(activation(gate.x), activation(gate.y), activation(gate.z), activation(gate.w));
    let value = activated * up[params.up_at + row * params.up_stride + quad];
    store_out(params.out_at + row * params.out_stride + quad, value);
}
