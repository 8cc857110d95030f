// kv_append with what comes before it: norms the heads of queries and keys where a family does, turns them by
// the row's position, and writes keys and values into the pages of one layer. Queries stay where they are, and
// keys are not stored anywhere else. Pages are ${CODEC}. A workgroup takes one head of one row.
struct Params {
    rows: u32,
    records_at: u32,    // (position, sequence) of each row, in tables
    directory_at: u32,  // of the layer's page tables, in tables
    heads: u32,
    kv_heads: u32,
    q_at: u32,          // of row 0 of q
    k_at: u32,
    v_at: u32,
    stride: u32,        // f32 from a row to the next
    half: u32,          // pairs of a head that turn; 0: none
    sines_at: u32,      // in table
    normed: u32,        // 1: heads have norms
    q_weight_at: u32,   // in vectors
    k_weight_at: u32,
    q_epsilon: f32,
    k_epsilon: f32,
    head_dim: f32,      // as rms_norm_heads divides by it: by a constant, some devices multiply
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> qkv: array<f32>;     // (rows, stride): queries, keys and values
@group(0) @binding(2) var<storage, read> tables: array<u32>;        // records, pages
@group(0) @binding(3) var<storage, read> table: array<f32>;         // cosines, then sines: (position, half)
@group(0) @binding(4) var<storage, read> vectors: array<f32>;       // the norms' weights
@group(0) @binding(5) var<storage, read_write> stripe: array<u32>;  // pages, each (kv_head, token, head_dim)

#include "lib/grid.wgsl"
#include "lib/page.wgsl"
#include "lib/page_encode_${CODEC}.wgsl"
#include "lib/rotate.wgsl"

var<workgroup> head: array<f32, ${HEAD_DIM}u>;
var<workgroup> shares: array<f32, ${WORKGROUP}u>;

@compute @workgroup_size(${WORKGROUP})
fn kv_append_roped(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    let row_heads = params.heads + 2u * params.kv_heads;
    let row = index / row_heads;
    if (row >= params.rows) {
        return;
    }
    // Queries first, then keys, then values.
    let of_row = index % row_heads;
    let is_q = of_row < params.heads;
    let is_v = of_row >= params.heads + params.kv_heads;
    var number = of_row;
    var at = params.q_at;
    if (is_v) {
        number = of_row - params.heads - params.kv_heads;
        at = params.v_at;
    } else if (!is_q) {
        number = of_row - params.heads;
        at = params.k_at;
    }
    at += row * params.stride + number * ${HEAD_DIM}u;
    let position = tables[params.records_at + 2u * row];

    var own = 0.0;
    for (var i = thread; i < ${HEAD_DIM}u; i += ${WORKGROUP}u) {
        let value = qkv[at + i];
        head[i] = value;
        own = fma(value, value, own);
    }
    shares[thread] = own;
    workgroupBarrier();
    if (params.normed == 1u && !is_v) {
        var sum = 0.0;
        for (var i = 0u; i < ${WORKGROUP}u; i++) {
            sum += shares[i];
        }
        let by = 1.0 / sqrt(sum / params.head_dim + select(params.k_epsilon, params.q_epsilon, is_q));
        let weight_at = select(params.k_weight_at, params.q_weight_at, is_q);
        for (var i = thread; i < ${HEAD_DIM}u; i += ${WORKGROUP}u) {
            head[i] = head[i] * by * vectors[weight_at + i];
        }
    }
    workgroupBarrier();
    if (!is_v) {
        for (var i = thread; i < params.half; i += ${WORKGROUP}u) {
            let turned = rotate(head[i], head[i + params.half], position, i);
            head[i] = turned.low;
            head[i + params.half] = turned.high;
        }
    }
    workgroupBarrier();
    if (is_q) {
        for (var i = thread; i < ${HEAD_DIM}u; i += ${WORKGROUP}u) {
            qkv[at + i] = head[i];
        }
        return;
    }
    let page = select(K_PAGE, V_PAGE, is_v);
    let pages_at = pages_of(tables[params.records_at + 2u * row + 1u]);
    let entry = chunk_entry(pages_at, position / ${CHUNK}u, page);
    let to = page_row(entry, number, position % ${CHUNK}u);
    for (var word = thread; word < ${ROW_WORDS}u; word += ${WORKGROUP}u) {
        stripe[to + word] = encode(head[word * WORD_ELEMENTS], head[word * WORD_ELEMENTS + WORD_ELEMENTS - 1u]);
    }
}
