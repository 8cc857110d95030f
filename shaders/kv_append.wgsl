// kv_append: writes a row's keys and values into its sequence's pages of one layer. Pages are ${CODEC}.
// A thread writes one word; a workgroup takes ${WORKGROUP} words of one row.
struct Params {
    rows: u32,
    records_at: u32,     // (position, sequence) of each row, in tables
    directory_at: u32,   // of the layer's page tables, in tables
    k_at: u32,           // of row 0 of k
    k_stride: u32,       // f32 from a row of k to the next
    v_at: u32,
    v_stride: u32,
    token_words: u32,    // u32 of a token in a page: kv_heads · row words
    token_groups: u32,   // workgroups to a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<f32>;             // (rows, k_stride)
@group(0) @binding(2) var<storage, read> v: array<f32>;             // (rows, v_stride)
@group(0) @binding(3) var<storage, read> tables: array<u32>;        // records, pages
@group(0) @binding(4) var<storage, read_write> stripe: array<u32>;  // pages, each (kv_head, token, head_dim)

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

    let k_entry = chunk_entry(pages_at, position / ${CHUNK}u, K_PAGE);
    let k_to = page_row(k_entry, kv_head, token) + word % ${ROW_WORDS}u;
    let v_entry = chunk_entry(pages_at, position / ${CHUNK}u, V_PAGE);
    let v_to = page_row(v_entry, kv_head, token) + word % ${ROW_WORDS}u;
    let k_from = params.k_at + row * params.k_stride + word * WORD_ELEMENTS;
    let v_from = params.v_at + row * params.v_stride + word * WORD_ELEMENTS;
    stripe[k_to] = encode(k[k_from], k[k_from + WORD_ELEMENTS - 1u]);
    stripe[v_to] = encode(v[v_from], v[v_from + WORD_ELEMENTS - 1u]);
}
