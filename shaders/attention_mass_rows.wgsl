// attention_mass, second half: what all rows of a sequence pay to each of its chunks, in ascending order. A thread takes one
// chunk.
struct Params {
    groups: u32,      // workgroups: of a sequence as many as its chunks fill
    groups_at: u32,   // (first row, rows, the first chunk, the chunk behind the sequence's last, where its first goes), in tables
    records_at: u32,  // (position, sequence) of each row, in tables
    chunks: u32,      // f32 from a row of the sums to the next
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sums: array<f32>;       // (row, chunks)
@group(0) @binding(2) var<storage, read> tables: array<u32>;     // groups, records
@group(0) @binding(3) var<storage, read_write> out: array<f32>;  // every sequence's chunks

#include "lib/grid.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn attention_mass_rows(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.groups) {
        return;
    }
    let group = params.groups_at + 5u * index;
    let first_row = tables[group];
    let rows = tables[group + 1u];
    let chunk = tables[group + 2u] + thread;
    if (chunk >= tables[group + 3u]) {
        return;
    }
    var sum = 0.0;
    for (var row = first_row; row < first_row + rows; row++) {
        // Nobody has written what lies behind a row's own position.
        if (chunk * ${CHUNK}u <= tables[params.records_at + 2u * row]) {
            sum += sums[row * params.chunks + chunk];
        }
    }
    out[tables[group + 4u] + chunk] = sum;
}
