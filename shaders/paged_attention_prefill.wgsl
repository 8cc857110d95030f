// paged_attention for prompt rows: a tile of up to ${QUERY_ROWS} rows of one sequence, one head. Pages are
// ${CODEC}. The workgroup walks the blocks of ${SPLIT} tokens from position 0 and merges each into a state
// in registers. A block that a row may not see at all leaves that row's state untouched, so its bits do
// not depend on the rows it shares a tile with, nor on how the prompt was cut.
struct Params {
    tiles: u32,         // tiles of rows
    tiles_at: u32,      // (first row, rows), in tables
    records_at: u32,    // (position, sequence) of each row, in tables
    directory_at: u32,  // of the layer's page tables, in tables
    heads: u32,
    kv_heads: u32,
    q_at: u32,          // of row 0 of q
    q_stride: u32,      // f32 from a row of q to the next
    out_at: u32,
    out_stride: u32,
    out_columns: u32,   // f32 of a row of out, the zeros that pad it included
    window: u32,        // positions that a row sees
    scale: f32,
    softcap: f32,       // 0: none
#repeat mass ${MASS}
    every: u32,         // one KV head of so many is measured, from the first on
    mass_heads: u32,    // heads that are
    mass_at: u32,       // of masses in out, since no binding is left: (tile, QUERY_ROWS, mass_heads, mass_stride)
    mass_stride: u32,   // f32 from such a head to the next: chunks, then blocks
    mass_chunks: u32,   // of which so many are chunks
#end
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;          // (rows, q_stride)
// Binding 2 is the stripe of the layer, declared with its codec.
@group(0) @binding(3) var<storage, read> tables: array<u32>;     // tiles, records, pages
@group(0) @binding(4) var<storage, read_write> out: array<f32>;  // (rows, out_stride)

#include "lib/grid.wgsl"
#include "lib/abreast_4.wgsl"
#include "lib/page.wgsl"
#include "lib/page_${CODEC}.wgsl"
#include "lib/pages_one${CODED}.wgsl"
#include "lib/softmax_state.wgsl"
#include "lib/softcap_scores.wgsl"
#include "lib/attention_block.wgsl"
#include "lib/attention_store.wgsl"

const_assert ${VECTORS}u * 4u == ${QUERY_ROWS}u;

@compute @workgroup_size(${WORKGROUP})
fn paged_attention_prefill(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.tiles * params.heads) {
        return;
    }
    let first_row = tables[params.tiles_at + 2u * (index / params.heads)];
    let rows = tables[params.tiles_at + 2u * (index / params.heads) + 1u];
    let last_record = params.records_at + 2u * (first_row + rows - 1u);
    // Positions ascend within a tile: the last row sees most.
    let longest = tables[last_record] + 1u;
    let pages = Pages(pages_of(tables[last_record + 1u]));
    let head = index % params.heads;
    // Counted and not divided: compilers divide anew wherever the result is used, in the innermost loops.
    let heads_per_kv = params.heads / params.kv_heads;
    var kv_head = 0u;
    for (var before = head; before >= heads_per_kv; before -= heads_per_kv) {
        kv_head++;
    }

    // Lanes behind the last row repeat it and are not stored.
#repeat v ${VECTORS}
#repeat l 4
    let row_${v}_${l} = first_row + min(${v}u * 4u + ${l}u, rows - 1u);
#end
    let length_${v} = abreast_u(1u) + abreast_u(
#repeat l 4
        tables[params.records_at + 2u * row_${v}_${l}],
#end
    );
    let start_${v} = length_${v} - min(length_${v}, abreast_u(params.window));
    for (var element = thread; element < ${QUADS}u * 4u; element += ${WORKGROUP}u) {
        let column = head * ${HEAD_DIM}u + min(element, ${HEAD_DIM}u - 1u);
        let value = abreast(
#repeat l 4
            q[params.q_at + row_${v}_${l} * params.q_stride + column],
#end
        );
        queries[${v}u * ${QUADS}u * 4u + element] = select(abreast(0.0), value, element < ${HEAD_DIM}u);
    }
    var largest_${v} = abreast(MASKED);
    var sum_${v} = abreast(0.0);
#repeat i ${OWNED}
    var value_${v}_${i} = abreast(0.0);
#end
#end
    workgroupBarrier();
#repeat mass ${MASS}

    let is_measured = kv_head % params.every == 0u && vector_of_mass(thread) < ${VECTORS}u;
    let measured_head = kv_head / params.every * heads_per_kv + head % heads_per_kv;
    let first_query = index / params.heads * ${QUERY_ROWS}u + vector_of_mass(thread) * 4u;
    let mass_at = params.mass_at + (first_query * params.mass_heads + measured_head) * params.mass_stride;
    let next_query = params.mass_heads * params.mass_stride;
    let own_rows = rows - min(rows, vector_of_mass(thread) * 4u);
#end

    // The first row sees furthest back: nobody sees a block before its window.
    let shortest = tables[params.records_at + 2u * first_row] + 1u;
    let seen_from = shortest - min(shortest, params.window);
    for (var first = seen_from / ${SPLIT}u * ${SPLIT}u; first < longest; first += ${SPLIT}u) {
        let block = attend_block(
            thread,
            pages,
            kv_head,
            first,
            max(seen_from, first) - first,
            min(longest - first, ${SPLIT}u),
            ${SPLIT}u,
#repeat v ${VECTORS}
            start_${v},
            length_${v},
#end
        );
#repeat mass ${MASS}
        // Sums, and what they are relative to, until the state of all blocks is known.
        if (is_measured) {
            var block_largest = block.largest_0;
#repeat v ${VECTORS}
            block_largest = select(block_largest, block.largest_${v}, vector_of_mass(thread) == ${v}u);
#end
#repeat l 4
            if (${l}u < own_rows) {
                let query_at = mass_at + ${l}u * next_query;
                out[query_at + first / ${CHUNK}u + chunk_of_mass(thread)] = block.mass[${l}];
                if (chunk_of_mass(thread) == 0u) {
                    out[query_at + params.mass_chunks + first / ${SPLIT}u] = block_largest[${l}];
                }
            }
#end
        }
#end
#repeat v ${VECTORS}
        let by_${v} = merge(largest_${v}, block.largest_${v}, block.sum_${v});
        largest_${v} = by_${v}.largest;
        sum_${v} = fma(sum_${v}, by_${v}.keep, block.sum_${v} * by_${v}.take);
#repeat i ${OWNED}
        value_${v}_${i} = fma(value_${v}_${i}, by_${v}.keep, block.value_${v}_${i} * by_${v}.take);
#end
#end
    }
#repeat v ${VECTORS}
#repeat l 4
    if (${v}u * 4u + ${l}u < rows) {
#repeat i ${OWNED}
        store(row_${v}_${l}, head, thread + ${i}u * ${WORKGROUP}u, value_${v}_${i}[${l}] / sum_${v}[${l}]);
#end
        store_padding(row_${v}_${l}, head, thread);
    }
#end
#end
#repeat mass ${MASS}

    storageBarrier();
    if (is_measured) {
        var largest = largest_0;
        var sum = sum_0;
#repeat v ${VECTORS}
        largest = select(largest, largest_${v}, vector_of_mass(thread) == ${v}u);
        sum = select(sum, sum_${v}, vector_of_mass(thread) == ${v}u);
#end
        for (var first = seen_from / ${SPLIT}u * ${SPLIT}u; first < longest; first += ${SPLIT}u) {
#repeat l 4
            if (${l}u < own_rows) {
                let query_at = mass_at + ${l}u * next_query;
                let block_largest = out[query_at + params.mass_chunks + first / ${SPLIT}u];
                let chunk_at = query_at + first / ${CHUNK}u + chunk_of_mass(thread);
                out[chunk_at] = out[chunk_at] * exp(block_largest - largest[${l}]) / sum[${l}];
            }
#end
        }
    }
#end
}
