// rms_norm of each head of a row by itself: a workgroup to a head, an element to a thread at a time. Heads may
// have any length. With a residual, x becomes their sum first.
struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,
    weight_at: u32,      // in vectors
    x_at: u32,           // of row 0 of x
    x_stride: u32,       // f32 from a row of x to the next
    out_at: u32,
    out_stride: u32,
    out_columns: u32,    // f32 of a row of out, the zeros that pad it included
    add_at: u32,
    add_stride: u32,
    added: u32,          // 1: there is a residual
    epsilon: f32,
    packed: u32,         // 1: only listed rows are normed, side by side
    rows_at: u32,        // the list, in tables
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;  // x too, where they share a buffer
@group(0) @binding(2) var<storage, read> vectors: array<f32>;    // the norm's weights
@group(0) @binding(3) var<storage, read> add: array<f32>;        // (rows, add_stride)
@group(0) @binding(4) var<storage, read> tables: array<u32>;     // row numbers
#repeat i ${APART}
@group(0) @binding(5) var<storage, read_write> x: array<f32>;    // (rows, x_stride)
#end

#include "lib/grid.wgsl"

var<workgroup> shares: array<f32, ${WORKGROUP}u>;

@compute @workgroup_size(${WORKGROUP})
fn rms_norm_heads(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.rows * params.heads) {
        return;
    }
    let out_row = index / params.heads;
    var row = out_row;
    if (params.packed == 1u) {
        row = tables[params.rows_at + out_row];
    }
    let first = (index % params.heads) * params.head_dim;
    let x_at = params.x_at + row * params.x_stride + first;
    var own = 0.0;
    for (var i = thread; i < params.head_dim; i += ${WORKGROUP}u) {
        var value = ${X}[x_at + i];
        if (params.added == 1u) {
            value += add[params.add_at + row * params.add_stride + first + i];
            ${X}[x_at + i] = value;
        }
        own = fma(value, value, own);
    }
    shares[thread] = own;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < ${WORKGROUP}u; i++) {
        sum += shares[i];
    }
    let by = 1.0 / sqrt(sum / f32(params.head_dim) + params.epsilon);
    // A thread reads what it wrote itself.
    let out_at = params.out_at + out_row * params.out_stride;
    for (var i = thread; i < params.head_dim; i += ${WORKGROUP}u) {
        out[out_at + first + i] = ${X}[x_at + i] * by * vectors[params.weight_at + i];
    }
    let padding = params.heads * params.head_dim + thread;
    if (first == 0u && padding < params.out_columns) {
        out[out_at + padding] = 0.0;
    }
}
