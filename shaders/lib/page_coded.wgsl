// Pages in any codec: a base, which stands alone, and perhaps a page over it. What the numbers mean is defined by page_codec
// of the reference. Keys are decoded in lib/keys_coded, values in lib/values_coded; which pages vectors share is in
// lib/pages_<apart|one>_coded.
//
// Kinds that no page of a dispatch is of are left out of its kernel: where a device runs both sides of a branch, or keeps
// registers for them, every page would pay for them.
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

// Half number `index` of those that begin at a word.
fn half_at(at: u32, index: u32) -> f32 {
    let pair = f16_pair(words[at + index / 2u]);
    return select(pair.x, pair.y, index % 2u == 1u);
}

// Words that hold what several quads need are loaded once for quads that are read one after another.
struct Cache {
    codes_at: u32,
    codes: vec4<u32>,  // a word of each of neighbouring tokens
    scales: vec4<u32>,  // likewise
    word_at: u32,
    word: u32,
}

// No word is where these say.
fn nothing_loaded() -> Cache {
    return Cache(0xffffffffu, vec4<u32>(), vec4<u32>(), 0xffffffffu, 0u);
}

fn cached_word(cache: ptr<function, Cache>, at: u32) -> u32 {
    if ((*cache).word_at != at) {
        (*cache).word_at = at;
        (*cache).word = words[at];
    }
    return (*cache).word;
}

// The scales of a page of codes.
fn scales_of(part: Part) -> u32 {
    return part.at * UNIT_WORDS + params.kv_heads * head_words_of(part);
}

// The place of a token's scale among those that are by token.
fn scale_of(part: Part, kv_head: u32, token: u32, quad: u32) -> u32 {
    let whole = is_set(part, 0u);
    let groups = select((${HEAD_DIM}u + ${GROUP}u - 1u) / ${GROUP}u, 1u, whole);
    return (kv_head * ${CHUNK}u + token) * groups + select(4u * quad / ${GROUP}u, 0u, whole);
}

// The one step of a page of integers.
fn integer_step(part: Part) -> f32 {
    return bitcast<f32>(words[part.at * UNIT_WORDS]);
}

// Four integers of a page that has one step.
fn integers(part: Part, cache: ptr<function, Cache>, kv_head: u32, token: u32, quad: u32) -> vec4<f32> {
    let bits = bits_of(part);
    let row = (kv_head * ${CHUNK}u + token) * ${HEAD_DIM}u;
#repeat e 4
    let bit_${e} = (row + channel_of(quad, ${e}u)) * bits;
    let word_${e} = bitcast<i32>(cached_word(cache, (part.at + 1u) * UNIT_WORDS + bit_${e} / 32u));
    let integer_${e} = extractBits(word_${e}, bit_${e} % 32u, bits);
#end
    return vec4<f32>(vec4<i32>(integer_0, integer_1, integer_2, integer_3));
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
