// Values in any codec, decoded in registers as they are read, a token at a time. Not what coefficients add, which is summed
// before it is expanded: lib/coefficient_sums.

// What the codes of a base are multiplied with in the quads of a group.
fn base_value_step(part: Part, spot: Spot, quad: u32) -> f32 {
    var step = 0.0;
#repeat by_token ${V_BASE_BY_TOKEN}
    if (kind_of(part) == BY_TOKEN) {
        step = half_at(scales_of(part), scale_of(part, spot.kv_head, spot.token, quad));
    }
#end
    return step;
}

// The same of what lies over a base.
fn over_value_step(part: Part, spot: Spot, quad: u32) -> f32 {
    var step = 0.0;
#repeat by_token ${V_OVER_BY_TOKEN}
    if (kind_of(part) == BY_TOKEN) {
        step = half_at(scales_of(part), scale_of(part, spot.kv_head, spot.token, quad));
    }
#end
#repeat integers ${V_OVER_STEPS}
    if (kind_of(part) == STEPS) {
        step = integer_step(part);
    }
#end
    return step;
}

// Codes of a quad, as they count steps.
fn value_codes(part: Part, cache: ptr<function, Cache>, spot: Spot, quad: u32) -> vec4<f32> {
    let bits = bits_of(part);
    let codes_at = part.at * UNIT_WORDS + spot.kv_head * head_words_of(part);
    // Two codes never lie in two words, and four do only where rows that are no whole quads follow one another.
    let first = (spot.token * ${HEAD_DIM}u + 4u * quad) * bits;
    let low = cached_word(cache, codes_at + first / 32u) >> (first % 32u);
    var high = low >> (2u * bits);
    if (${HEAD_DIM}u % 4u != 0u) {
        let second = (spot.token * ${HEAD_DIM}u + min(4u * quad + 2u, ${HEAD_DIM}u - 2u)) * bits;
        high = cached_word(cache, codes_at + second / 32u) >> (second % 32u);
    }
    let mask = (1u << bits) - 1u;
    return vec4<f32>(vec4<u32>(low & mask, (low >> bits) & mask, high & mask, (high >> bits) & mask)) + lowest_of(bits);
}

// A quad of a page that stands alone.
fn base_value(part: Part, cache: ptr<function, Cache>, step: f32, spot: Spot, quad: u32) -> vec4<f32> {
    var value = vec4<f32>();
#repeat exact ${V_BASE_EXACT}
    if (kind_of(part) == EXACT) {
        value = page_quad(page_row(part.at, spot.kv_head, spot.token), quad);
    }
#end
#repeat by_token ${V_BASE_BY_TOKEN}
    if (kind_of(part) == BY_TOKEN) {
        value = inside(quad, fma(value_codes(part, cache, spot, quad), vec4<f32>(step), vec4<f32>()));
    }
#end
    return value;
}

// A quad of a page that may lie over another, but for what coefficients add. As explicit fma, as everywhere.
fn over_value(part: Part, cache: ptr<function, Cache>, step: f32, spot: Spot, quad: u32, base: vec4<f32>) -> vec4<f32> {
    var value = base;
#repeat by_token ${V_OVER_BY_TOKEN}
    if (kind_of(part) == BY_TOKEN) {
        value = inside(quad, fma(value_codes(part, cache, spot, quad), vec4<f32>(step), base));
    }
#end
#repeat integers ${V_OVER_STEPS}
    if (kind_of(part) == STEPS) {
        let integers = integers(part, cache, spot.kv_head, spot.token, quad);
        value = inside(quad, fma(integers, vec4<f32>(step), base));
    }
#end
#repeat low_rank ${V_OVER_LOW_RANK}
    if (kind_of(part) == LOW_RANK && is_kept(part, spot.token)) {
        value = inside(quad, kept_quad(part, spot.kv_head, quad));
    }
#end
    return value;
}
