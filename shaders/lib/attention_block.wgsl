// Attention over one block of at most ${SPLIT} tokens, for the queries in `queries`, which read the same
// KV head: ${VECTORS} vectors of queries. Decode and prefill share it, so a block is
// computed in one order only: token t by thread t % ${WORKGROUP} for scores, by group t % ${GROUPS} of
// its chunk for values, then threads and groups in ascending order. What a query may not see is never added
// to its sums, not even with weight 0, which an inf would turn into a NaN: a query's result does not depend
// on the tokens that only other queries see.
//
// A thread scores whole tokens: no reduction, hence no barrier, within a head. ${LANES} threads share a
// token's values, ${SPAN} quads of the head side by side each, and ${GROUPS} such groups take turns over a chunk's tokens.
//
// Vectors may be rows of different sequences (lib/pages_apart) or of one (lib/pages_one). Either way a page that
// several of them read is loaded once, for all of them.
var<workgroup> queries: array<abreast, ${VECTORS}u * ${QUADS}u * 4u>;      // (VECTORS, head_dim)
// First (VECTORS, token) scores and weights, then (VECTORS, 4, thread) sums of values.
var<workgroup> scores: array<abreast, ${VECTORS}u * ${SPLIT}u>;
var<workgroup> shares: array<abreast, ${VECTORS}u * ${WORKGROUP}u>;        // (VECTORS, thread)

const_assert ${SPLIT}u == 4u * ${WORKGROUP}u;  // the two uses of `scores` are of one size
const_assert ${GROUPS}u * ${LANES}u <= ${WORKGROUP}u && ${GROUPS}u <= ${CHUNK}u;

fn sees(position: u32, start: abreast_u, length: abreast_u) -> abreast_b {
    return (abreast_u(position) < length) & (abreast_u(position) >= start);
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
#repeat v ${VECTORS}
    start_${v}: abreast_u,
    length_${v}: abreast_u,
#end
) -> Block {
    var block: Block;
    let first_chunk = first / ${CHUNK}u;

#repeat v ${VECTORS}
    var largest_${v} = abreast(MASKED);
#end
    for (var token = thread; token < count; token += ${WORKGROUP}u) {
        if (token < skipped) {
#repeat v ${VECTORS}
            scores[${v}u * ${SPLIT}u + token] = abreast(MASKED);
#end
            continue;
        }
        ${ROWS} rows = page_rows(pages, first_chunk + token / ${CHUNK}u, K_PAGE, kv_head, token % ${CHUNK}u);
#repeat v ${VECTORS}
        var dot_${v} = abreast(0.0);
#end
        for (var quad = 0u; quad < ${QUADS}u; quad++) {
            let keys = page_quads(${OF}rows, quad);
#repeat v ${VECTORS}
#repeat e 4
            dot_${v} = fma(queries[${v}u * ${QUADS}u * 4u + quad * 4u + ${e}u], abreast(keys.quad_${v}[${e}]), dot_${v});
#end
#end
        }
#repeat v ${VECTORS}
        let seen_${v} = sees(first + token, start_${v}, length_${v});
        let score_${v} = select(abreast(MASKED), capped(dot_${v} * params.scale), seen_${v});
        scores[${v}u * ${SPLIT}u + token] = score_${v};
        largest_${v} = max(largest_${v}, score_${v});
#end
    }
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
    let lane = thread % ${LANES}u;
    let group = thread / ${LANES}u;
    if (group < ${GROUPS}u) {
        for (var chunk = skipped / ${CHUNK}u; chunk * ${CHUNK}u < count; chunk++) {
            let tokens = min(count - chunk * ${CHUNK}u, ${CHUNK}u);
            for (var token = group; token < tokens; token += ${GROUPS}u) {
                ${ROWS} rows = page_rows(pages, first_chunk + chunk, V_PAGE, kv_head, token);
                // A loop: what decodes a quad is long, and is compiled once.
                for (var s = 0u; s < min(${SPAN}u, ${QUADS}u - lane * ${SPAN}u); s++) {
                    let values = page_quads(${OF}rows, lane * ${SPAN}u + s);
#repeat v ${VECTORS}
                    let weight_${v} = scores[${v}u * ${SPLIT}u + chunk * ${CHUNK}u + token];
                    let seen_${v} = sees(first + chunk * ${CHUNK}u + token, start_${v}, length_${v});
#repeat t ${SPAN}
                    if (s == ${t}u) {
#repeat e 4
                        let next_${e} = fma(weight_${v}, abreast(values.quad_${v}[${e}]), value_${v}_${t}_${e});
                        value_${v}_${t}_${e} = select(value_${v}_${t}_${e}, next_${e}, seen_${v});
#end
                    }
#end
#end
                }
            }
        }
    }
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
    workgroupBarrier();
    return block;
}
