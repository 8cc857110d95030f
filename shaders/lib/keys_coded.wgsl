// Keys in any codec, decoded in registers as they are read: ${TILE} neighbouring tokens of a chunk at once, which have most
// of what codes are decoded with in common, and whose words lie side by side.
#include "lib/words_abreast_${TILE}.wgsl"

// A quad of each token.
struct Keys {
#repeat t ${TILE}
    quad_${t}: vec4<f32>,
#end
}

// What the codes of a base are multiplied with, for each token, from a quad to the next that another group begins with.
fn base_key_steps(part: Part, cache: ptr<function, Cache>, spot: Spot, quad: u32) -> vec4<f32> {
    var steps = vec4<f32>();
#repeat by_token ${K_BASE_BY_TOKEN}
    if (kind_of(part) == BY_TOKEN) {
        steps = token_steps(part, cache, spot, quad);
    }
#end
#repeat by_channel ${K_BASE_BY_CHANNEL}
    if (kind_of(part) == BY_CHANNEL) {
        steps = vec4<f32>(half_at(scales_of(part), spot.kv_head));
    }
#end
#repeat profiled ${K_BASE_PROFILED}
    if (kind_of(part) == PROFILED) {
        steps = vec4<f32>(half_at(scales_of(part), spot.kv_head));
    }
#end
    return steps;
}

// The same of what lies over a base.
fn over_key_steps(part: Part, cache: ptr<function, Cache>, spot: Spot, quad: u32) -> vec4<f32> {
    var steps = vec4<f32>();
#repeat by_token ${K_OVER_BY_TOKEN}
    if (kind_of(part) == BY_TOKEN) {
        steps = token_steps(part, cache, spot, quad);
    }
#end
#repeat integers ${K_OVER_STEPS}
    if (kind_of(part) == STEPS) {
        steps = vec4<f32>(integer_step(part));
    }
#end
    return steps;
}

// A word has the scales of two groups: those of the second are there already where tokens begin with a word, and quads are
// read one after another, as tiles of tokens are.
fn token_steps(part: Part, cache: ptr<function, Cache>, spot: Spot, quad: u32) -> vec4<f32> {
    let groups = (${HEAD_DIM}u + ${GROUP}u - 1u) / ${GROUP}u;
    let group = 4u * quad / ${GROUP}u;
    let first = (spot.kv_head * ${CHUNK}u + spot.token) * groups + group;
    if (${TILE}u == 1u || groups % 2u == 1u || group % 2u == 0u) {
        let scales_at = scales_of(part);
        (*cache).scales = vec4<u32>();
#repeat t ${TILE}
        (*cache).scales[${t}] = words[scales_at + (first + ${t}u * groups) / 2u];
#end
    }
    var steps = vec4<f32>();
#repeat t ${TILE}
    steps[${t}] = f16_pair((*cache).scales[${t}] >> (16u * ((first + ${t}u * groups) % 2u))).x;
#end
    return steps;
}

// Codes of a quad, as they count steps.
fn key_codes(part: Part, cache: ptr<function, Cache>, spot: Spot, quad: u32) -> Keys {
    let bits = bits_of(part);
    let first = 4u * quad * bits;
    let head_at = part.at * UNIT_WORDS + spot.kv_head * head_words_of(part);
    let at = head_at + first / 32u * ${CHUNK}u + spot.token;
    if ((*cache).codes_at != at) {
        (*cache).codes_at = at;
        (*cache).codes = words_abreast(at);
    }
    let shifts = first % 32u + bits * vec4<u32>(0u, 1u, 2u, 3u);
    let mask = vec4<u32>((1u << bits) - 1u);
    let lowest = vec4<f32>(lowest_of(bits));
    return Keys(
#repeat t ${TILE}
        vec4<f32>((vec4<u32>((*cache).codes[${t}]) >> shifts) & mask) + lowest,
#end
    );
}

// A quad of pages that stand alone. As explicit fma, so that no compiler makes one of this product and what is added to it.
fn base_keys(part: Part, cache: ptr<function, Cache>, steps: vec4<f32>, spot: Spot, quad: u32) -> Keys {
    var keys: Keys;
#repeat exact ${K_BASE_EXACT}
    if (kind_of(part) == EXACT) {
#repeat t ${TILE}
        keys.quad_${t} = page_quad(page_row(part.at, spot.kv_head, spot.token + ${t}u), quad);
#end
        return keys;
    }
#end
#repeat coded ${K_BASE_CODES}
    var channels = vec4<f32>(1.0);
#repeat by_channel ${K_BASE_BY_CHANNEL}
    if (kind_of(part) == BY_CHANNEL) {
        let first = 4u * scales_of(part) + 2u * params.kv_heads + spot.kv_head * ${HEAD_DIM}u;
        let low = byte_pair(cache, first + 4u * quad);
        let high = byte_pair(cache, first + min(4u * quad + 2u, ${HEAD_DIM}u - 2u));
        channels = (vec4<f32>(low, high) + 1.0) * 0.00390625;
    }
#end
#repeat profiled ${K_BASE_PROFILED}
    if (kind_of(part) == PROFILED) {
        channels = first_quad(part.constants, spot.kv_head, quad);
    }
#end
    keys = key_codes(part, cache, spot, quad);
#repeat t ${TILE}
    keys.quad_${t} = inside(quad, fma(keys.quad_${t}, steps[${t}] * channels, vec4<f32>()));
#end
#end
    return keys;
}

// Two bytes, the first at an even place.
fn byte_pair(cache: ptr<function, Cache>, byte: u32) -> vec2<f32> {
    let pair = cached_word(cache, byte / 4u) >> (8u * (byte % 4u));
    return vec2<f32>(vec2<u32>(pair & 255u, (pair >> 8u) & 255u));
}

// A quad of pages that may lie over others. As explicit fma, as everywhere.
fn over_keys(part: Part, cache: ptr<function, Cache>, steps: vec4<f32>, spot: Spot, quad: u32, base: Keys) -> Keys {
    var keys = base;
#repeat by_token ${K_OVER_BY_TOKEN}
    if (kind_of(part) == BY_TOKEN) {
        let codes = key_codes(part, cache, spot, quad);
#repeat t ${TILE}
        keys.quad_${t} = inside(quad, fma(codes.quad_${t}, vec4<f32>(steps[${t}]), base.quad_${t}));
#end
    }
#end
#repeat integers ${K_OVER_STEPS}
    if (kind_of(part) == STEPS) {
#repeat t ${TILE}
        let integers_${t} = integers(part, cache, spot.kv_head, spot.token + ${t}u, quad);
        keys.quad_${t} = inside(quad, fma(integers_${t}, vec4<f32>(steps[${t}]), base.quad_${t}));
#end
    }
#end
#repeat low_rank ${K_OVER_LOW_RANK}
    if (kind_of(part) == LOW_RANK) {
        keys = low_rank_keys(part, spot, quad, base);
    }
#end
    return keys;
}
#repeat low_rank ${K_OVER_LOW_RANK}

// The mean and the directions, as each token's coefficients mix them, at four channels of a head, which may stand apart.
fn expanded_keys(part: Part, spot: Spot, channels: vec4<u32>, apart: bool) -> Keys {
    let per_word = 32u / bits_of(part);
    let quads = channels / 4u;
    var mean = first_quad(part.constants, spot.kv_head, quads.x);
#repeat apart ${K_OVER_APART}
    if (apart) {
        mean = vec4<f32>(
            mean[channels.x % 4u],
            first_quad(part.constants, spot.kv_head, quads.y)[channels.y % 4u],
            first_quad(part.constants, spot.kv_head, quads.z)[channels.z % 4u],
            first_quad(part.constants, spot.kv_head, quads.w)[channels.w % 4u],
        );
    }
#end
    var keys: Keys;
#repeat t ${TILE}
    keys.quad_${t} = mean;
    var word_${t} = 0u;
    var step_${t} = 0.0;
#end
    for (var i = 0u; i < rank_of(part); i++) {
        if (i % per_word == 0u) {
#repeat t ${TILE}
            word_${t} = coefficient_word(part, spot.token + ${t}u, i);
#end
        }
        if (i % scaled_together(part) == 0u) {
#repeat t ${TILE}
            step_${t} = coefficient_step(part, spot.token + ${t}u, i);
#end
        }
        let row = direction_at(part.constants, i);
        let scale = direction_scale(row);
        var steps = direction_quad(row, spot.kv_head, quads.x);
#repeat apart ${K_OVER_APART}
        if (apart) {
            steps = vec4<f32>(
                steps[channels.x % 4u],
                direction_quad(row, spot.kv_head, quads.y)[channels.y % 4u],
                direction_quad(row, spot.kv_head, quads.z)[channels.z % 4u],
                direction_quad(row, spot.kv_head, quads.w)[channels.w % 4u],
            );
        }
#end
#repeat t ${TILE}
        let z_${t} = coefficient_of(part, word_${t}, i) * step_${t} * scale;
        keys.quad_${t} = fma(vec4<f32>(z_${t}), steps, keys.quad_${t});
#end
    }
    return keys;
}

// Keys are expanded and then turned, in the rotate-half form.
fn low_rank_keys(part: Part, spot: Spot, quad: u32, base: Keys) -> Keys {
    let channels = vec4<u32>(channel_of(quad, 0u), channel_of(quad, 1u), channel_of(quad, 2u), channel_of(quad, 3u));
    let half = vec4<u32>(tables[params.directory_at - 2u]);
    let sines_at = tables[params.directory_at - 1u];
    let is_low = channels < half;
    let turns = channels < 2u * half;
    let other = select(select(channels, channels - half, turns), channels + half, is_low);
    // The channels that they are turned with, then themselves: a loop, since what expands is long and is compiled once.
    var partners = base;
    var keys = base;
    for (var turn = select(1u, 0u, is_set(part, 2u)); turn < 2u; turn++) {
        partners = keys;
        let own = turn == 1u;
        keys = expanded_keys(part, spot, select(other, channels, own), !own && is_set(part, 3u));
    }
    if (is_set(part, 2u)) {
        let pair = min(min(channels, other), half - 1u);
#repeat t ${TILE}
        {
            let angle = (spot.position + ${t}u) * half + pair;
            let cos = vec4<f32>(table[angle.x], table[angle.y], table[angle.z], table[angle.w]);
            let sines = sines_at + angle;
            let sin = vec4<f32>(table[sines.x], table[sines.y], table[sines.z], table[sines.w]);
            let across = partners.quad_${t} * sin;
            let turned = fma(keys.quad_${t}, cos, select(across, -across, is_low));
            keys.quad_${t} = select(keys.quad_${t}, turned, turns);
        }
#end
    }
#repeat t ${TILE}
    keys.quad_${t} = inside(quad, base.quad_${t} + keys.quad_${t});
#end
    if (is_kept(part, spot.token)) {
        keys.quad_0 = inside(quad, kept_quad(part, spot.kv_head, quad));
    }
    return keys;
}
#end
