// attention_mass, first half: what rows pay to each chunk in one layer, summed over the measured heads in ascending order, and
// added to what they pay in the layers before. A thread takes one chunk of one row.
struct Params {
    entries: u32,     // rows, or places in tiles of rows
    list_at: u32,     // of the rows or tiles, in tables
    list_words: u32,  // from one of them to the next; a row, or the first one of a tile and how many it has
    tile: u32,        // entries of a tile, 1 for rows
    records_at: u32,  // (position, sequence) of each row, in tables
    masses_at: u32,   // of the first entry
    heads: u32,       // measured ones
    stride: u32,      // f32 from a head of an entry to the next
    groups: u32,      // workgroups to an entry
    chunks: u32,      // f32 from a row of the sums to the next
    window: u32,      // positions that a row sees
    adds: u32,        // 0: no layer was before
    share: f32,       // what a weight of 1 of one head counts
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> masses: array<f32>;      // (entry, head, stride)
@group(0) @binding(2) var<storage, read> tables: array<u32>;      // rows or tiles, records
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;  // (row, chunks)

#include "lib/grid.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn attention_mass_heads(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let entry = index / params.groups;
    if (entry >= params.entries) {
        return;
    }
    let listed = params.list_at + entry / params.tile * params.list_words;
    if (params.tile > 1u && entry % params.tile >= tables[listed + 1u]) {
        return;
    }
    let row = tables[listed] + entry % params.tile;
    let length = tables[params.records_at + 2u * row] + 1u;
    let chunk = index % params.groups * ${WORKGROUP}u + thread;
    if (chunk * ${CHUNK}u >= length) {
        return;
    }
    var sum = 0.0;
    // Nobody has written what lies before the window.
    if ((chunk + 1u) * ${CHUNK}u > length - min(length, params.window)) {
        for (var head = 0u; head < params.heads; head++) {
            sum += masses[params.masses_at + (entry * params.heads + head) * params.stride + chunk];
        }
    }
    let at = row * params.chunks + chunk;
    var before = 0.0;
    if (params.adds != 0u) {
        before = sums[at];
    }
    sums[at] = fma(sum, params.share, before);
}
