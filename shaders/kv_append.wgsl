// kv_append: writes a row's keys and values into its sequence's pages of one layer. Pages are ${CODEC}.
// A thread writes one word; a workgroup takes ${WORKGROUP} words of one row.
struct Params {
    rows: u32,
    records_at: u32,     // (position, sequence) of each row, in tables
    directory_at: u32,   // of the layer's page tables, in tables
    stride: u32,         // f32 in a row of k and of v
    token_words: u32,    // u32 of a token in a page: kv_heads · row words
    token_groups: u32,   // workgroups to a row
    page_words: u32,     // u32 in a page
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<f32>;             // (rows, stride)
@group(0) @binding(2) var<storage, read> v: array<f32>;             // (rows, stride)
@group(0) @binding(3) var<storage, read> tables: array<u32>;        // records, pages
@group(0) @binding(4) var<storage, read_write> stripe: array<u32>;  // (slot, K or V, kv_head, token, head_dim)

#include "lib/grid.wgsl"
#include "lib/page.wgsl"
#include "lib/page_encode_${CODEC}.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn kv_append(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let row = index / params.token_groups;
    let word = (index % params.token_groups) * ${WORKGROUP}u + thread;
    if (row >= params.rows || word >= params.token_words) {
        return;
    }
    let position = tables[params.records_at + 2u * row];
    let pages_at = pages_of(tables[params.records_at + 2u * row + 1u]);
    let kv_head = word / ${ROW_WORDS}u;
    let token = position % ${CHUNK}u;
    let from_at = row * params.stride + word * WORD_ELEMENTS;

    let k_entry = chunk_entry(pages_at, position / ${CHUNK}u, K_PAGE);
    let k_at = page_row(k_entry, K_PAGE, kv_head, token) + word % ${ROW_WORDS}u;
    let v_entry = chunk_entry(pages_at, position / ${CHUNK}u, V_PAGE);
    let v_at = page_row(v_entry, V_PAGE, kv_head, token) + word % ${ROW_WORDS}u;
    stripe[k_at] = encode(k[from_at], k[from_at + WORD_ELEMENTS - 1u]);
    stripe[v_at] = encode(v[from_at], v[from_at + WORD_ELEMENTS - 1u]);
}
