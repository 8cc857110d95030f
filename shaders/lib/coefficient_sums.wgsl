// What pages of coefficients add to weighted sums of values: coefficients are weighted and summed over the tokens of a
// block, and the sums are expanded once, however many tokens there are. Pages that follow one another over the same
// constants are summed together.
//
// Threads share a token's coefficients, a portion each, and take turns over tokens.

// Coefficients of a portion, at most: of one word, and as many as sums are kept of.
const PORTION: u32 = 8u;

struct Expanded {
    // Whether any page of the block is of coefficients.
    any: bool,
#repeat i ${OWNED}
    // Element thread + ${i} · ${WORKGROUP} of the head.
    value_${i}: abreast,
#end
}

// The page over a chunk's base that values of a sequence are read from.
fn over_values(pages_at: u32, chunk: u32) -> Part {
    return part_at(pages_at + (2u * chunk + V_PAGE) * 2u * PART_WORDS + PART_WORDS);
}

// For one vector, whose weights begin at a place in `scores`, of the pages of one sequence that has `chunks`. The
// tokens are those of attend_block. Begins and ends with `shares` free.
fn expanded_values(
    thread: u32,
    pages_at: u32,
    chunks: u32,
    kv_head: u32,
    first: u32,
    skipped: u32,
    count: u32,
    start: abreast_u,
    length: abreast_u,
    weights_at: u32,
) -> Expanded {
    var expanded: Expanded;
    let first_chunk = first / ${CHUNK}u;
    let last = min((count + ${CHUNK}u - 1u) / ${CHUNK}u, max(chunks, first_chunk) - first_chunk);
    for (var chunk = skipped / ${CHUNK}u; chunk < last;) {
        // Neighbouring pages in one form over the same constants are summed together.
        let part = over_values(pages_at, first_chunk + chunk);
        var behind = chunk + 1u;
        for (; behind < last; behind++) {
            let next = over_values(pages_at, first_chunk + behind);
            if (next.form != part.form || next.constants != part.constants) {
                break;
            }
        }
        let coded = kind_of(part) == LOW_RANK;
        expanded.any = expanded.any || coded;
        let portion = select(1u, min(32u / bits_of(part), PORTION), coded);
        let portions = select(0u, rank_of(part) / portion, coded);
        for (var begin = 0u; begin < portions; begin += ${WORKGROUP}u) {
            let beside = min(portions - begin, ${WORKGROUP}u);
            let turns = ${WORKGROUP}u / beside;
            let own = (begin + thread % beside) * portion;
            var weights = abreast(0.0);
#repeat k 8
            var sum_${k} = abreast(0.0);
#end
            let end = select(0u, min(behind * ${CHUNK}u, count), thread / beside < turns);
            // A turn has the same tokens of a block wherever pages begin to be seen: the order of a row's sums is its own.
            let run = chunk * ${CHUNK}u;
            let turn_at = (thread / beside + turns - run % turns) % turns;
            for (var token = run + turn_at; token < end; token += turns) {
                let page = over_values(pages_at, first_chunk + token / ${CHUNK}u);
                if (is_kept(page, token % ${CHUNK}u)) {
                    continue;
                }
                let word = coefficient_word(page, token % ${CHUNK}u, own);
                let step = coefficient_step(page, token % ${CHUNK}u, own);
                let seen = sees(first + token, start, length);
                let weight = scores[weights_at + token];
                let weighted = weight * step;
#repeat k 8
                if (${k}u < portion) {
                    let next = fma(weighted, abreast(coefficient_of(page, word, own + ${k}u)), sum_${k});
                    sum_${k} = select(sum_${k}, next, seen);
                }
#end
                weights = select(weights, weights + weight, seen);
            }

            // The mean, once.
            shares[thread] = weights;
            workgroupBarrier();
            if (begin == 0u) {
                var all = shares[0];
                for (var turn = 1u; turn < turns; turn++) {
                    all += shares[turn * beside];
                }
#repeat i ${OWNED}
                {
                    let element = min(thread + ${i}u * ${WORKGROUP}u, ${HEAD_DIM}u - 1u);
                    let mean = abreast(first_constant(part.constants, kv_head, element));
                    expanded.value_${i} = fma(all, mean, expanded.value_${i});
                }
#end
            }
            workgroupBarrier();
            // One coefficient of every portion after the other: a loop, whose barriers are compiled once.
            for (var k = 0u; k < portion; k++) {
                var sum = sum_0;
#repeat k 8
                if (k == ${k}u) {
                    sum = sum_${k};
                }
#end
                shares[thread] = sum;
                workgroupBarrier();
                if (thread < beside) {
                    var total = shares[thread];
                    for (var turn = 1u; turn < turns; turn++) {
                        total += shares[turn * beside + thread];
                    }
                    shares[thread] = total * direction_scale(direction_at(part.constants, own + k));
                }
                workgroupBarrier();
                for (var i = 0u; i < beside; i++) {
                    let row = direction_at(part.constants, (begin + i) * portion + k);
#repeat i ${OWNED}
                    {
                        let element = min(thread + ${i}u * ${WORKGROUP}u, ${HEAD_DIM}u - 1u);
                        let steps = abreast(direction_constant(row, kv_head, element));
                        expanded.value_${i} = fma(shares[i], steps, expanded.value_${i});
                    }
#end
                }
                workgroupBarrier();
            }
        }
        chunk = behind;
    }
    return expanded;
}
