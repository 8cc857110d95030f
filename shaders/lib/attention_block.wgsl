// Attention over one block of at most ${SPLIT} tokens, for the queries in `queries`, which read the same
// KV head: ${VECTORS} vectors of queries. Decode and prefill share it, so a block is
// computed in one order only: token t by thread t % ${WORKGROUP} for weights, by group t % ${GROUPS} of
// its chunk for values, then threads and groups in ascending order. What a query may not see is never added
// to its sums, not even with weight 0, which an inf would turn into a NaN: a query's result does not depend
// on the tokens that only other queries see.
//
// A thread scores whole tokens, ${TILE} neighbours at a time, which share what is read of queries: no reduction, hence no
// barrier, within a head. ${LANES} threads share a token's values, ${SPAN} quads of the head side by side each, and ${GROUPS}
// such groups take turns over a chunk's tokens.
//
// Vectors may be rows of different sequences (lib/pages_apart) or of one (lib/pages_one). Either way a page that
// several of them read is loaded once, for all of them. Of different sequences the first tokens, up to `together`, are known
// to be of pages that all share, or share the base of: what runs both sides of a branch need not look there.
var<workgroup> queries: array<abreast, ${VECTORS}u * ${QUADS}u * 4u>;      // (VECTORS, head_dim)
// First (VECTORS, token) scores and weights, then (VECTORS, 4, thread) sums of values.
var<workgroup> scores: array<abreast, ${VECTORS}u * ${SPLIT}u>;
var<workgroup> shares: array<abreast, ${VECTORS}u * ${WORKGROUP}u>;        // (VECTORS, thread)

const_assert ${SPLIT}u == 4u * ${WORKGROUP}u;  // the two uses of `scores` are of one size
const_assert ${GROUPS}u * ${LANES}u <= ${WORKGROUP}u && ${GROUPS}u <= ${CHUNK}u;
const_assert ${CHUNK}u % ${TILE}u == 0u;

#repeat low_rank ${V_OVER_LOW_RANK}
#include "lib/coefficient_sums.wgsl"
#end
#repeat mass ${MASS}
#include "lib/attention_mass.wgsl"
#end

fn sees(position: u32, start: abreast_u, length: abreast_u) -> abreast_b {
    return (abreast_u(position) < length) & (abreast_u(position) >= start);
}

// What is read for each vector at once: keys of ${TILE} tokens, or values of one.
struct KeyQuads {
#repeat v ${VECTORS}
    row_${v}: Keys,
#end
}

struct ValueQuads {
#repeat v ${VECTORS}
    row_${v}: vec4<f32>,
#end
}

struct Block {
#repeat v ${VECTORS}
    largest_${v}: abreast,
    sum_${v}: abreast,
#repeat i ${OWNED}
    // Element thread + ${i} · ${WORKGROUP} of the head.
    value_${v}_${i}: abreast,
#end
#end
#repeat mass ${MASS}
    mass: abreast,  // the thread's own, of one vector and chunk
#end
}

// The tokens from number `skipped` to below `count` ≥ 1 from position `first` on; a lane sees the positions
// from its `start` to below its `length`. Ends with workgroup memory free for the next block.
fn attend_block(
    thread: u32,
    pages: Pages,
    kv_head: u32,
    first: u32,
    skipped: u32,
    count: u32,
    together: u32,
#repeat v ${VECTORS}
    start_${v}: abreast_u,
    length_${v}: abreast_u,
#end
) -> Block {
    var block: Block;
    let begins_0 = 0u;
    let ends_${LAST_PHASE} = count;
#repeat p ${LAST_PHASE}
    let ends_0 = min(together, count);
    let begins_1 = together;
#end
    let first_chunk = first / ${CHUNK}u;

#repeat v ${VECTORS}
    var largest_${v} = abreast(MASKED);
#end
#repeat p ${PHASES}
    for (var token = begins_${p} + ${TILE}u * thread; token < ends_${p}; token += ${TILE}u * ${WORKGROUP}u) {
        if (token + ${TILE}u <= skipped) {
#repeat v ${VECTORS}
#repeat t ${TILE}
            scores[${v}u * ${SPLIT}u + token + ${t}u] = abreast(MASKED);
#end
#end
            continue;
        }
        var rows = key_rows(pages, first_chunk + token / ${CHUNK}u, kv_head, token % ${CHUNK}u, ${p}u + 1u < ${PHASES}u);
#repeat v ${VECTORS}
#repeat t ${TILE}
        var dot_${v}_${t} = abreast(0.0);
#end
#end
        for (var group = 0u; group < ${QUADS}u; group += ${STRETCH}u) {
#repeat coded ${TOO_CODED}
            group_of_keys(&rows, group);
#end
            for (var quad = group; quad < min(group + ${STRETCH}u, ${QUADS}u); quad++) {
                let keys = key_quads(&rows, quad);
#repeat v ${VECTORS}
#repeat e 4
                let query_${v}_${e} = queries[${v}u * ${QUADS}u * 4u + quad * 4u + ${e}u];
#repeat t ${TILE}
                dot_${v}_${t} = fma(query_${v}_${e}, abreast(keys.row_${v}.quad_${t}[${e}]), dot_${v}_${t});
#end
#end
#end
            }
        }
#repeat v ${VECTORS}
#repeat t ${TILE}
        let seen_${v}_${t} = sees(first + token + ${t}u, start_${v}, length_${v});
        let score_${v}_${t} = select(abreast(MASKED), capped(dot_${v}_${t} * params.scale), seen_${v}_${t});
        scores[${v}u * ${SPLIT}u + token + ${t}u] = score_${v}_${t};
        largest_${v} = max(largest_${v}, score_${v}_${t});
#end
#end
    }
#end
#repeat v ${VECTORS}
    shares[${v}u * ${WORKGROUP}u + thread] = largest_${v};
#end
    workgroupBarrier();

#repeat v ${VECTORS}
    block.largest_${v} = shares[${v}u * ${WORKGROUP}u];
    for (var i = 1u; i < ${WORKGROUP}u; i++) {
        block.largest_${v} = max(block.largest_${v}, shares[${v}u * ${WORKGROUP}u + i]);
    }
    var sum_${v} = abreast(0.0);
#end
    workgroupBarrier();
    for (var token = thread; token < count; token += ${WORKGROUP}u) {
#repeat v ${VECTORS}
        let at_${v} = ${v}u * ${SPLIT}u + token;
        let seen_${v} = sees(first + token, start_${v}, length_${v});
        let weight_${v} = select(abreast(0.0), exp(scores[at_${v}] - block.largest_${v}), seen_${v});
        scores[at_${v}] = weight_${v};
        sum_${v} += weight_${v};
#end
    }
#repeat v ${VECTORS}
    shares[${v}u * ${WORKGROUP}u + thread] = sum_${v};
#end
    workgroupBarrier();

#repeat v ${VECTORS}
    block.sum_${v} = abreast(0.0);
    for (var i = 0u; i < ${WORKGROUP}u; i++) {
        block.sum_${v} += shares[${v}u * ${WORKGROUP}u + i];
    }
#repeat s ${SPAN}
#repeat e 4
    var value_${v}_${s}_${e} = abreast(0.0);
#end
#end
#end
#repeat mass ${MASS}
    block.mass = chunk_mass(thread, count);
#end
    let lane = thread % ${LANES}u;
    let group = thread / ${LANES}u;
    if (group < ${GROUPS}u) {
#repeat p ${PHASES}
        for (var chunk = max(begins_${p}, skipped) / ${CHUNK}u; chunk * ${CHUNK}u < ends_${p}; chunk++) {
            let tokens = min(count - chunk * ${CHUNK}u, ${CHUNK}u);
            var rows = value_rows(pages, first_chunk + chunk, kv_head, ${p}u + 1u < ${PHASES}u);
            for (var token = group; token < tokens; token += ${GROUPS}u) {
                token_of_values(&rows, token, lane * ${SPAN}u);
#repeat v ${VECTORS}
                let weight_${v} = scores[${v}u * ${SPLIT}u + chunk * ${CHUNK}u + token];
                let seen_${v} = sees(first + chunk * ${CHUNK}u + token, start_${v}, length_${v});
#end
#repeat s ${SPAN}
                if (${QUADS}u % ${SPAN}u == 0u || lane * ${SPAN}u + ${s}u < ${QUADS}u) {
                    let values = value_quads(&rows, lane * ${SPAN}u + ${s}u);
#repeat v ${VECTORS}
#repeat e 4
                    let next_${v}_${e} = fma(weight_${v}, abreast(values.row_${v}[${e}]), value_${v}_${s}_${e});
                    value_${v}_${s}_${e} = select(value_${v}_${s}_${e}, next_${v}_${e}, seen_${v});
#end
#end
                }
#end
            }
        }
#end
    }
#repeat low_rank ${V_OVER_LOW_RANK}
    workgroupBarrier();
#repeat v ${VECTORS}
    var expanded_${v}: Expanded;
#end
    // A loop: its barriers are compiled once.
    for (var v = 0u; v < ${VECTORS}u; v++) {
        var start = start_0;
        var length = length_0;
#repeat v ${VECTORS}
        if (v == ${v}u) {
            start = start_${v};
            length = length_${v};
        }
#end
        let read = sequence_of(pages, v);
        let weights_at = v * ${SPLIT}u;
        let expanded =
            expanded_values(thread, read.x, read.y, kv_head, first, skipped, count, start, length, weights_at);
#repeat v ${VECTORS}
        if (v == ${v}u) {
            expanded_${v} = expanded;
        }
#end
    }
#end
#repeat s ${SPAN}
    workgroupBarrier();
#repeat v ${VECTORS}
#repeat e 4
    scores[(${v}u * 4u + ${e}u) * ${WORKGROUP}u + thread] = value_${v}_${s}_${e};
#end
#end
    workgroupBarrier();
#repeat i ${OWNED}
    {
        let element = min(thread + ${i}u * ${WORKGROUP}u, ${HEAD_DIM}u - 1u);
        if (element / 4u % ${SPAN}u == ${s}u) {
#repeat v ${VECTORS}
            let at_${v} = (${v}u * 4u + element % 4u) * ${WORKGROUP}u + element / (4u * ${SPAN}u);
            var sum_of_${v} = scores[at_${v}];
            for (var g = 1u; g < ${GROUPS}u; g++) {
                sum_of_${v} += scores[at_${v} + g * ${LANES}u];
            }
            block.value_${v}_${i} = sum_of_${v};
#end
        }
    }
#end
#end
#repeat low_rank ${V_OVER_LOW_RANK}
#repeat v ${VECTORS}
    if (expanded_${v}.any) {
#repeat i ${OWNED}
        block.value_${v}_${i} += expanded_${v}.value_${i};
#end
    }
#end
#end
    workgroupBarrier();
    return block;
}
