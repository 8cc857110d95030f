// kv_read: reads a row's keys and values back from its sequence's pages of one layer, into columns of a tensor that may be
// wider. Pages are ${CODEC}. A thread reads two elements of a key and two of a value: of the key those that have turned
// together, if it is turned back.
struct Params {
    rows: u32,
    records_at: u32,     // (position, sequence) of each row, in tables
    directory_at: u32,   // of the layer's page tables, in tables
    pairs: u32,          // of a row's keys: kv_heads · head_dim / 2
    row_groups: u32,     // workgroups to a row
    half: u32,           // pairs of a head that turn back; 0: none
    sines_at: u32,       // in table
    out_at: u32,         // of row 0
    out_stride: u32,     // f32 from a row to the next
    first: u32,          // column of the first key
    cols: u32,           // of a row
    padding: u32,        // zeros behind it
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;  // (rows, out_stride)
@group(0) @binding(2) var<storage, read> tables: array<u32>;     // records, pages
@group(0) @binding(3) var<storage, read> table: array<f32>;      // cosines, then sines: (position, half)
@group(0) @binding(4) var<storage, read> stripe: array<u32>;     // pages, each (kv_head, token, head_dim)

#include "lib/grid.wgsl"
#include "lib/page.wgsl"
#include "lib/page_element_${CODEC}.wgsl"
#include "lib/rotate.wgsl"

@compute @workgroup_size(${WORKGROUP})
fn kv_read(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let row = index / params.row_groups;
    let pair = (index % params.row_groups) * ${WORKGROUP}u + thread;
    if (row >= params.rows) {
        return;
    }
    let row_at = params.out_at + row * params.out_stride;
    // A row may never have been written before.
    if (pair < params.padding) {
        out[row_at + params.cols + pair] = 0.0;
    }
    if (pair >= params.pairs) {
        return;
    }
    let position = tables[params.records_at + 2u * row];
    let pages_at = pages_of(tables[params.records_at + 2u * row + 1u]);
    let kv_head = pair / ${HEAD_PAIRS}u;
    let token = position % ${CHUNK}u;
    let k_from = page_row(chunk_entry(pages_at, position / ${CHUNK}u, K_PAGE), kv_head, token);
    let v_from = page_row(chunk_entry(pages_at, position / ${CHUNK}u, V_PAGE), kv_head, token);
    let k_to = row_at + params.first + kv_head * 2u * ${HEAD_PAIRS}u;
    let v_to = k_to + 2u * params.pairs;

    let of_head = pair % ${HEAD_PAIRS}u;
    let even = 2u * of_head;
    let turns = of_head < params.half;
    let low_at = select(even, of_head, turns);
    let high_at = select(even + 1u, of_head + params.half, turns);
    var low = page_element(k_from, low_at);
    var high = page_element(k_from, high_at);
    if (turns) {
        // The other way round, a pair turns back.
        let turned = rotate(high, low, position, of_head);
        low = turned.high;
        high = turned.low;
    }
    out[k_to + low_at] = low;
    out[k_to + high_at] = high;
    out[v_to + even] = page_element(v_from, even);
    out[v_to + even + 1u] = page_element(v_from, even + 1u);
}
