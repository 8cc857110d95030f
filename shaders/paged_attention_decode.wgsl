// paged_attention for generated rows, first half: one block of one row, ${LANES} heads that share a KV
// head side by side. Pages are ${CODEC}. Blocks of a long context run beside each other and leave partial
// states, which paged_attention_merge joins in order.
struct Params {
    items: u32,         // blocks of all rows
    items_at: u32,      // (row, first position), in tables
    records_at: u32,    // (position, sequence) of each row, in tables
    directory_at: u32,  // of the layer's page tables, in tables
    heads: u32,
    kv_heads: u32,
    vectors: u32,       // vectors of heads to a KV head
    q_stride: u32,      // f32 in a row of q
    page_words: u32,    // u32 in a page
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;                // (rows, q_stride)
// Binding 2 is the stripe of the layer, declared with its codec.
@group(0) @binding(3) var<storage, read> tables: array<u32>;           // items, records, pages
@group(0) @binding(4) var<storage, read_write> partials: array<f32>;   // (item, head, 2 + head_dim)

#include "lib/grid.wgsl"
#include "lib/lanes_${LANES}.wgsl"
#include "lib/page.wgsl"
#include "lib/page_${CODEC}.wgsl"
#include "lib/softmax_state.wgsl"
#include "lib/attention_block.wgsl" VECTORS=1

@compute @workgroup_size(${WORKGROUP})
fn paged_attention_decode(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let vectors = params.kv_heads * params.vectors;
    let item = index / vectors;
    if (item >= params.items) {
        return;
    }
    let row = tables[params.items_at + 2u * item];
    let first = tables[params.items_at + 2u * item + 1u];
    let length = tables[params.records_at + 2u * row] + 1u;
    let pages_at = pages_of(tables[params.records_at + 2u * row + 1u]);
    let kv_head = (index % vectors) / params.vectors;
    let heads_per_kv = params.heads / params.kv_heads;
    let first_head = (index % params.vectors) * ${LANES}u;

    // Lanes behind the last head of the group repeat it and are not stored.
    for (var element = thread; element < ${QUADS}u * 4u; element += ${WORKGROUP}u) {
        let safe = min(element, ${HEAD_DIM}u - 1u);
#repeat l ${LANES}
        let head_${l} = kv_head * heads_per_kv + min(first_head + ${l}u, heads_per_kv - 1u);
        let value_${l} = q[row * params.q_stride + head_${l} * ${HEAD_DIM}u + safe];
#end
        let value = lanes(
#repeat l ${LANES}
            value_${l},
#end
        );
        queries[element] = select(lanes(0.0), value, element < ${HEAD_DIM}u);
    }
    workgroupBarrier();

    let count = min(length - first, ${SPLIT}u);
    let block = attend_block(thread, pages_at, kv_head, first, count, lanes_u(length));
#repeat l ${LANES}
    if (first_head + ${l}u < heads_per_kv) {
        let head = kv_head * heads_per_kv + first_head + ${l}u;
        let partial = (item * params.heads + head) * (2u + ${HEAD_DIM}u);
        if (thread == 0u) {
            partials[partial] = lane(block.largest_0, ${l}u);
            partials[partial + 1u] = lane(block.sum_0, ${l}u);
        }
#repeat i ${OWNED}
        if (thread + ${i}u * ${WORKGROUP}u < ${HEAD_DIM}u) {
            partials[partial + 2u + thread + ${i}u * ${WORKGROUP}u] = lane(block.value_0_${i}, ${l}u);
        }
#end
    }
#end
}
