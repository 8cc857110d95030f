// paged_attention for generated rows, second half: joins the partial states of a row's blocks, in
// ascending order, and divides by the sum. A workgroup takes one head of one row.
struct Params {
    rows: u32,        // generated rows
    rows_at: u32,     // (row, the state of its first block, blocks), in tables
    heads: u32,
    out_at: u32,      // of row 0 of out
    out_stride: u32,  // f32 from a row of out to the next
    out_columns: u32, // f32 of a row of out, the zeros that pad it included
#repeat mass ${MASS}
    records_at: u32,  // (position, sequence) of each row, in tables
    kv_heads: u32,
    every: u32,       // one KV head of so many is measured, from the first on
    mass_heads: u32,  // heads that are
    mass_stride: u32, // f32 from such a head of masses to the next
#end
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partials: array<f32>;   // (state, head, 2 + head_dim)
@group(0) @binding(2) var<storage, read> tables: array<u32>;     // rows
@group(0) @binding(3) var<storage, read_write> out: array<f32>;  // (rows, out_stride)
#repeat mass ${MASS}
@group(0) @binding(4) var<storage, read_write> masses: array<f32>;  // (generated rows, mass_heads, mass_stride), by chunk

const BLOCK_CHUNKS: u32 = ${SPLIT}u / ${CHUNK}u;
#end

#include "lib/grid.wgsl"
#include "lib/abreast_1.wgsl"
#include "lib/softmax_state.wgsl"
#include "lib/attention_store.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn paged_attention_merge(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.rows * params.heads) {
        return;
    }
    let entry = params.rows_at + 3u * (index / params.heads);
    let head = index % params.heads;
    let row = tables[entry];
    let first = tables[entry + 1u];
    let states = tables[entry + 2u];
#repeat i ${OWNED}
    let element_${i} = min(thread + ${i}u * ${WORKGROUP}u, ${HEAD_DIM}u - 1u);
    var value_${i} = 0.0;
#end
    var largest = MASKED;
    var sum = 0.0;
    for (var state = first; state < first + states; state++) {
        let partial = (state * params.heads + head) * (${STATE});
        let state_sum = partials[partial + 1u];
        let by = merge(largest, partials[partial], state_sum);
        largest = by.largest;
        sum = fma(sum, by.keep, state_sum * by.take);
#repeat i ${OWNED}
        value_${i} = fma(value_${i}, by.keep, partials[partial + 2u + element_${i}] * by.take);
#end
    }
#repeat i ${OWNED}
    store(row, head, thread + ${i}u * ${WORKGROUP}u, value_${i} / sum);
#end
    store_padding(row, head, thread);
#repeat mass ${MASS}

    // What the head pays to each chunk of its blocks, of which the row's own is the last.
    let heads_per_kv = params.heads / params.kv_heads;
    let kv_head = head / heads_per_kv;
    if (kv_head % params.every == 0u) {
        let measured = kv_head / params.every * heads_per_kv + head % heads_per_kv;
        let masses_at = (index / params.heads * params.mass_heads + measured) * params.mass_stride;
        let first_block = tables[params.records_at + 2u * row] / ${SPLIT}u + 1u - states;
        for (var i = thread; i < states * BLOCK_CHUNKS; i += ${WORKGROUP}u) {
            let partial = ((first + i / BLOCK_CHUNKS) * params.heads + head) * (${STATE});
            let mass = partials[partial + 2u + ${HEAD_DIM}u + i % BLOCK_CHUNKS];
            masses[masses_at + first_block * BLOCK_CHUNKS + i] = mass * exp(partials[partial] - largest) / sum;
        }
    }
#end
}
