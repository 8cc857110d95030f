// Pages of coefficients of directions, all heads of a token in one, as the coefficients are stored.

fn rank_of(part: Part) -> u32 {
    return part.form >> 16u;
}

// Words of a token's coefficients.
fn token_words_of(part: Part) -> u32 {
    return rank_of(part) * bits_of(part) / 32u;
}

// Coefficients of a token that share a scale.
fn scaled_together(part: Part) -> u32 {
    return min(rank_of(part), ${GROUP}u);
}

// Scales of a token: none of f16.
fn token_scales_of(part: Part) -> u32 {
    let group = scaled_together(part);
    return select((rank_of(part) + group - 1u) / group, 0u, bits_of(part) == 16u);
}

// The word that holds a token's coefficient `i`.
fn coefficient_word(part: Part, token: u32, i: u32) -> u32 {
    return words[part.at * UNIT_WORDS + token * token_words_of(part) + i * bits_of(part) / 32u];
}

// What a code of coefficient `i` is multiplied with.
fn coefficient_step(part: Part, token: u32, i: u32) -> f32 {
    if (bits_of(part) == 16u) {
        return 1.0;
    }
    let scales_at = part.at * UNIT_WORDS + ${CHUNK}u * token_words_of(part);
    return half_at(scales_at, token * token_scales_of(part) + i / scaled_together(part));
}

// Coefficient `i`, in its steps, from its word.
fn coefficient_of(part: Part, word: u32, i: u32) -> f32 {
    let bits = bits_of(part);
    let code = word >> (i * bits % 32u);
    if (bits == 16u) {
        return f16_pair(code).x;
    }
    return f32(code & ((1u << bits) - 1u)) + lowest_of(bits);
}

// Whether a token is kept as numbers besides, over nothing.
fn is_kept(part: Part, token: u32) -> bool {
    return is_set(part, 1u) && token == 0u;
}

// Those numbers.
fn kept_quad(part: Part, kv_head: u32, quad: u32) -> vec4<f32> {
    let behind = ${CHUNK}u * token_words_of(part) + ${CHUNK}u / 2u * token_scales_of(part);
    let first = part.at * UNIT_WORDS + behind + kv_head * ${HEAD_DIM}u / 2u;
    let low = words[first + 2u * quad];
    let high = words[first + min(2u * quad + 1u, ${HEAD_DIM}u / 2u - 1u)];
    return vec4<f32>(f16_pair(low), f16_pair(high));
}
