// Pages in any codec, decoded in registers as they are read: a base, which stands alone, and perhaps a page over it. What
// the numbers mean is defined by page_codec of the reference. Not which pages vectors share: that is in
// lib/pages_<apart|one>_coded.
//
// Kinds that no page of a dispatch is of are left out of its kernel: where a device runs both sides of a branch, or keeps
// registers for them, every page would pay for them.
//
// Codes and scales are read by words. A word that holds those of several quads is loaded once for quads that are read one
// after another: whoever reads them keeps a Cache for each part.
@group(0) @binding(${WORDS}) var<storage, read> words: array<u32>;          // the stripe once more
@group(0) @binding(${CONSTANTS}) var<storage, read> constants: array<u32>;  // rows of each
@group(0) @binding(${TABLE}) var<storage, read> table: array<f32>;          // cosines, then sines: (position, half)

#include "lib/page_form.wgsl"
#include "lib/page_constants.wgsl"

// Whose elements are read.
struct Spot {
    kv_head: u32,
    token: u32,     // of the chunk
    position: u32,  // of the token
}

// The words that were loaded last.
struct Cache {
    code_at: u32,
    code: u32,
    scale_at: u32,
    scale: u32,
    channel_at: u32,
    channel: u32,
}

struct Loaded {
    quad: vec4<f32>,
    cache: Cache,
}

// No word is where these say.
fn nothing_loaded() -> Cache {
    return Cache(0xffffffffu, 0u, 0xffffffffu, 0u, 0xffffffffu, 0u);
}

fn code_word(cache: ptr<function, Cache>, at: u32) -> u32 {
    if ((*cache).code_at != at) {
        (*cache).code_at = at;
        (*cache).code = words[at];
    }
    return (*cache).code;
}

// Half number `index` of those that begin at a word, by itself.
fn scale_half(cache: ptr<function, Cache>, at: u32, index: u32) -> f32 {
    let word = at + index / 2u;
    if ((*cache).scale_at != word) {
        (*cache).scale_at = word;
        (*cache).scale = words[word];
    }
    let pair = f16_pair((*cache).scale);
    return select(pair.x, pair.y, index % 2u == 1u);
}

// Two bytes, the first at an even place.
fn channel_pair(cache: ptr<function, Cache>, byte: u32) -> vec2<f32> {
    let word = byte / 4u;
    if ((*cache).channel_at != word) {
        (*cache).channel_at = word;
        (*cache).channel = words[word];
    }
    let pair = (*cache).channel >> (8u * (byte % 4u));
    return vec2<f32>(vec2<u32>(pair & 255u, (pair >> 8u) & 255u));
}

// The channel of a head that element `e` of a quad is, the last one again behind it.
fn channel_of(quad: u32, e: u32) -> u32 {
    return min(4u * quad + e, ${HEAD_DIM}u - 1u);
}

// Zeros behind the last channel of a head.
fn inside(quad: u32, value: vec4<f32>) -> vec4<f32> {
    if (${HEAD_DIM}u % 4u == 0u) {
        return value;
    }
    return select(vec4<f32>(value.xy, 0.0, 0.0), value, 4u * quad + 2u < ${HEAD_DIM}u);
}

// A quad of a page that stands alone.
fn base_quad(part: Part, cache: Cache, spot: Spot, quad: u32) -> Loaded {
    if (kind_of(part) == EXACT) {
        return Loaded(page_quad(page_row(part.at, spot.kv_head, spot.token), quad), cache);
    }
    return over_quad(part, cache, spot, quad, vec4<f32>());
}

// What lies over a base, if anything does that a dispatch reads.
fn topped_quad(part: Part, cache: Cache, spot: Spot, quad: u32, base: vec4<f32>) -> Loaded {
    var loaded = Loaded(base, cache);
#repeat over ${OVER}
    loaded = over_quad(part, cache, spot, quad, base);
#end
    return loaded;
}

// A quad of what lies over a base, the base added. As explicit fma, as everywhere.
fn over_quad(part: Part, given: Cache, spot: Spot, quad: u32, base: vec4<f32>) -> Loaded {
    var cache = given;
    var value = base;
    switch (kind_of(part)) {
        case NOTHING: {}
#repeat steps ${STEPS_TOO}
        case STEPS: {
            value = inside(quad, steps_quad(part, &cache, spot, quad, base));
        }
#end
#repeat expands ${EXPANDS}
        case LOW_RANK: {
            value = inside(quad, low_rank_quad(part, &cache, spot, quad, base));
        }
#end
        default: {
            value = inside(quad, codes_quad(part, &cache, spot, quad, base));
        }
    }
    return Loaded(value, cache);
}

fn codes_quad(part: Part, cache: ptr<function, Cache>, spot: Spot, quad: u32, base: vec4<f32>) -> vec4<f32> {
    let bits = bits_of(part);
    let head_words = head_words_of(part);
    let codes_at = part.at * UNIT_WORDS + spot.kv_head * head_words;
    let scales_at = part.at * UNIT_WORDS + params.kv_heads * head_words;
    let beside = is_set(part, 4u);
    // Two codes never lie in two words, and four do only where rows that are no whole quads follow one another.
    let before = select(spot.token * ${HEAD_DIM}u, 0u, beside);
    let first = (before + 4u * quad) * bits;
    let word = select(first / 32u, first / 32u * ${CHUNK}u + spot.token, beside);
    let low = code_word(cache, codes_at + word) >> (first % 32u);
    var high = low >> (2u * bits);
    if (${HEAD_DIM}u % 4u != 0u && !beside) {
        let second = (spot.token * ${HEAD_DIM}u + min(4u * quad + 2u, ${HEAD_DIM}u - 2u)) * bits;
        high = code_word(cache, codes_at + second / 32u) >> (second % 32u);
    }
    let mask = (1u << bits) - 1u;
    let codes = vec4<u32>(low & mask, (low >> bits) & mask, high & mask, (high >> bits) & mask);

    var steps: vec4<f32>;
    if (kind_of(part) == BY_TOKEN) {
        let whole = is_set(part, 0u);
        let groups = select((${HEAD_DIM}u + ${GROUP}u - 1u) / ${GROUP}u, 1u, whole);
        let group = select(4u * quad / ${GROUP}u, 0u, whole);
        let index = (spot.kv_head * ${CHUNK}u + spot.token) * groups + group;
        steps = vec4<f32>(scale_half(cache, scales_at, index));
    } else {
        let scale = scale_half(cache, scales_at, spot.kv_head);
        if (kind_of(part) == BY_CHANNEL) {
            let bytes = 4u * scales_at + 2u * params.kv_heads + spot.kv_head * ${HEAD_DIM}u;
            let first_pair = channel_pair(cache, bytes + 4u * quad);
            let second_pair = channel_pair(cache, bytes + min(4u * quad + 2u, ${HEAD_DIM}u - 2u));
            steps = scale * ((vec4<f32>(first_pair, second_pair) + 1.0) * 0.00390625);
        } else {
            steps = scale * first_quad(part.constants, spot.kv_head, quad);
        }
    }
    return fma(vec4<f32>(codes) + lowest_of(bits), steps, base);
}

fn steps_quad(part: Part, cache: ptr<function, Cache>, spot: Spot, quad: u32, base: vec4<f32>) -> vec4<f32> {
    let bits = bits_of(part);
    let first = part.at * UNIT_WORDS;
    // The step lies where scales do not, in a unit of its own.
    if ((*cache).scale_at != first) {
        (*cache).scale_at = first;
        (*cache).scale = words[first];
    }
    let row = (spot.kv_head * ${CHUNK}u + spot.token) * ${HEAD_DIM}u;
#repeat e 4
    let bit_${e} = (row + channel_of(quad, ${e}u)) * bits;
    let word_${e} = bitcast<i32>(code_word(cache, first + UNIT_WORDS + bit_${e} / 32u));
    let steps_${e} = f32(extractBits(word_${e}, bit_${e} % 32u, bits));
#end
    let steps = vec4<f32>(
#repeat e 4
        steps_${e},
#end
    );
    return fma(steps, vec4<f32>(bitcast<f32>((*cache).scale)), base);
}

// Coefficient `i` of a token.
fn coefficient(part: Part, cache: ptr<function, Cache>, token: u32, i: u32) -> f32 {
    let bits = bits_of(part);
    let rank = part.form >> 16u;
    let token_words = rank * bits / 32u;
    let first = part.at * UNIT_WORDS;
    let bit = i * bits;
    let word = code_word(cache, first + token * token_words + bit / 32u);
    if (bits == 16u) {
        let pair = f16_pair(word);
        return select(pair.x, pair.y, i % 2u == 1u);
    }
    let group = min(rank, ${GROUP}u);
    let scales = (rank + group - 1u) / group;
    let step = scale_half(cache, first + ${CHUNK}u * token_words, token * scales + i / group);
    return (f32((word >> (bit % 32u)) & ((1u << bits) - 1u)) + lowest_of(bits)) * step;
}

// The mean and the directions, as a token's coefficients mix them, at four channels of a head, which may stand apart.
fn expanded(part: Part, cache: ptr<function, Cache>, spot: Spot, channels: vec4<u32>, apart: bool) -> vec4<f32> {
    let rank = part.form >> 16u;
    let quads = channels / 4u;
    var sum = first_quad(part.constants, spot.kv_head, quads.x);
    if (apart) {
        sum = vec4<f32>(
            sum[channels.x % 4u],
            first_quad(part.constants, spot.kv_head, quads.y)[channels.y % 4u],
            first_quad(part.constants, spot.kv_head, quads.z)[channels.z % 4u],
            first_quad(part.constants, spot.kv_head, quads.w)[channels.w % 4u],
        );
    }
    for (var i = 0u; i < rank; i++) {
        let row = direction_at(part.constants, i);
        var steps = direction_quad(row, spot.kv_head, quads.x);
        if (apart) {
            steps = vec4<f32>(
                steps[channels.x % 4u],
                direction_quad(row, spot.kv_head, quads.y)[channels.y % 4u],
                direction_quad(row, spot.kv_head, quads.z)[channels.z % 4u],
                direction_quad(row, spot.kv_head, quads.w)[channels.w % 4u],
            );
        }
        let z = coefficient(part, cache, spot.token, i) * direction_scale(row);
        sum = fma(vec4<f32>(z), steps, sum);
    }
    return sum;
}

fn low_rank_quad(part: Part, cache: ptr<function, Cache>, spot: Spot, quad: u32, base: vec4<f32>) -> vec4<f32> {
    let head = spot.kv_head * ${HEAD_DIM}u;
    if (is_set(part, 1u) && spot.token == 0u) {
        // As it is, over nothing.
        let rank = part.form >> 16u;
        let bits = bits_of(part);
        let group = min(rank, ${GROUP}u);
        let scales = select((rank + group - 1u) / group, 0u, bits == 16u);
        let first_at = part.at * UNIT_WORDS + ${CHUNK}u * (rank * bits / 32u) + ${CHUNK}u / 2u * scales;
        let low = code_word(cache, first_at + (head + 4u * quad) / 2u);
        let high = code_word(cache, first_at + (head + min(4u * quad + 2u, ${HEAD_DIM}u - 2u)) / 2u);
        return vec4<f32>(f16_pair(low), f16_pair(high));
    }
    let channels = vec4<u32>(
#repeat e 4
        channel_of(quad, ${e}u),
#end
    );
    var own = expanded(part, cache, spot, channels, false);
    if (is_set(part, 2u)) {
        // The rotate-half form, after the expansion.
        let half = vec4<u32>(tables[params.directory_at - 2u]);
        let sines_at = tables[params.directory_at - 1u];
        let is_low = channels < half;
        let turns = channels < 2u * half;
        let other = select(select(channels, channels - half, turns), channels + half, is_low);
        let partner = expanded(part, cache, spot, other, is_set(part, 3u));
        let angle = spot.position * half + min(min(channels, other), half - 1u);
        let cos = vec4<f32>(
#repeat e 4
            table[angle[${e}]],
#end
        );
        let sin = vec4<f32>(
#repeat e 4
            table[sines_at + angle[${e}]],
#end
        );
        let turned = fma(own, cos, select(partner * sin, -(partner * sin), is_low));
        own = select(own, turned, turns);
    }
    return base + own;
}
