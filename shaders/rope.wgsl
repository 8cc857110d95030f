// rope: rotates each head of each row by the row's position, in place. A thread turns one pair.
struct Params {
    rows: u32,
    records_at: u32,   // (position, sequence) of each row, in tables
    heads: u32,
    head_dim: u32,
    half: u32,         // pairs of a head that turn
    sines_at: u32,     // in table
    x_at: u32,         // of row 0 of x
    x_stride: u32,     // f32 from a row of x to the next
    row_groups: u32,   // workgroups to a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;  // (rows, x_stride)
@group(0) @binding(2) var<storage, read> tables: array<u32>;   // records
@group(0) @binding(3) var<storage, read> table: array<f32>;    // cosines, then sines: (position, half)

#include "lib/grid.wgsl"
#include "lib/rotate.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn rope(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let row = index / params.row_groups;
    let pair = (index % params.row_groups) * ${WORKGROUP}u + thread;
    if (row >= params.rows || pair >= params.heads * params.half) {
        return;
    }
    let i = pair % params.half;
    let at = params.x_at + row * params.x_stride + pair / params.half * params.head_dim + i;
    let turned = rotate(x[at], x[at + params.half], tables[params.records_at + 2u * row], i);
    x[at] = turned.low;
    x[at + params.half] = turned.high;
}
