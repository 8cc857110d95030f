// paged_attention for generated rows, first half: one block of up to ${VECTORS} rows, ${ABREAST} heads that share
// a KV head side by side. Pages are ${CODEC}. Rows are put together where they share pages, which are then read
// once. Blocks of a long context run beside each other and leave partial states, which paged_attention_merge
// joins in order.
struct Params {
    items: u32,         // blocks of all rows
    items_at: u32,      // ITEM_WORDS for each, in tables
    records_at: u32,    // (position, sequence) of each row, in tables
    directory_at: u32,  // of the layer's page tables, in tables
    heads: u32,
    kv_heads: u32,
    vectors: u32,       // vectors of heads to a KV head
    q_at: u32,          // of row 0 of q
    q_stride: u32,      // f32 from a row of q to the next
    window: u32,        // positions that a row sees
    scale: f32,
    softcap: f32,       // 0: none
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;                // (rows, q_stride)
// Binding 2 is the stripe of the layer, declared with its codec.
@group(0) @binding(3) var<storage, read> tables: array<u32>;           // items, records, pages
@group(0) @binding(4) var<storage, read_write> partials: array<f32>;   // (state, head, 2 + head_dim)

#include "lib/grid.wgsl"
#include "lib/abreast_${ABREAST}.wgsl"
#include "lib/page.wgsl"
#include "lib/page_${CODEC}.wgsl"
#include "lib/pages_apart${CODED}.wgsl"
#include "lib/softmax_state.wgsl"
#include "lib/softcap_scores.wgsl"
#include "lib/attention_block.wgsl"

// First position, rows, tokens that all rows read on the same bases, and a row and its state for each vector.
const ITEM_WORDS: u32 = 3u + 2u * ${VECTORS}u;

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
    let item_at = params.items_at + item * ITEM_WORDS;
    let first = tables[item_at];
    let rows = tables[item_at + 1u];
    // Counted and not divided: compilers divide anew wherever the result is used, in the innermost loops.
    var kv_head = 0u;
    var vector = index % vectors;
    for (; vector >= params.vectors; vector -= params.vectors) {
        kv_head++;
    }
    let heads_per_kv = params.heads / params.kv_heads;
    let first_head = vector * ${ABREAST}u;

    // Lanes behind the last head of the group repeat it, vectors behind the last row the first one, whose pages are
    // read anyway; neither is stored.
    var pages: Pages;
    pages.vectors = rows;
    var skipped = ${SPLIT}u;
#repeat v ${VECTORS}
    let row_${v} = tables[item_at + 3u + 2u * select(0u, ${v}u, ${v}u < rows)];
    let length_${v} = tables[params.records_at + 2u * row_${v}] + 1u;
    let start_${v} = length_${v} - min(length_${v}, params.window);
    skipped = min(skipped, max(start_${v}, first) - first);
    pages.at_${v} = pages_of(tables[params.records_at + 2u * row_${v} + 1u]);
    pages.chunks_${v} = (length_${v} + ${CHUNK}u - 1u) / ${CHUNK}u;
    for (var element = thread; element < ${QUADS}u * 4u; element += ${WORKGROUP}u) {
        let safe = min(element, ${HEAD_DIM}u - 1u);
#repeat l ${ABREAST}
        let head_${l} = kv_head * heads_per_kv + min(first_head + ${l}u, heads_per_kv - 1u);
        let value_${l} = q[params.q_at + row_${v} * params.q_stride + head_${l} * ${HEAD_DIM}u + safe];
#end
        let value = abreast(
#repeat l ${ABREAST}
            value_${l},
#end
        );
        queries[${v}u * ${QUADS}u * 4u + element] = select(abreast(0.0), value, element < ${HEAD_DIM}u);
    }
#end
    workgroupBarrier();

    let count = min(length_0 - first, ${SPLIT}u);
    let block = attend_block(
        thread,
        pages,
        kv_head,
        first,
        skipped,
        count,
        tables[item_at + 2u],
#repeat v ${VECTORS}
        abreast_u(start_${v}),
        abreast_u(length_${v}),
#end
    );
#repeat v ${VECTORS}
    if (${v}u < rows) {
        let state = tables[item_at + 4u + 2u * ${v}u];
#repeat l ${ABREAST}
        if (first_head + ${l}u < heads_per_kv) {
            let head = kv_head * heads_per_kv + first_head + ${l}u;
            let partial = (state * params.heads + head) * (${STATE});
            if (thread == 0u) {
                partials[partial] = of_query(block.largest_${v}, ${l}u);
                partials[partial + 1u] = of_query(block.sum_${v}, ${l}u);
            }
#repeat i ${OWNED}
            if (thread + ${i}u * ${WORKGROUP}u < ${HEAD_DIM}u) {
                partials[partial + 2u + thread + ${i}u * ${WORKGROUP}u] = of_query(block.value_${v}_${i}, ${l}u);
            }
#end
#repeat mass ${MASS}
            // Behind the values and, like them, relative to the block's largest.
            if (vector_of_mass(thread) == ${v}u) {
                partials[partial + 2u + ${HEAD_DIM}u + chunk_of_mass(thread)] = of_query(block.mass, ${l}u);
            }
#end
        }
#end
    }
#end
}
