// page_codec, last of three: numbers as the words of a page. A thread writes one word, of which it computes every bit, so
// that no two write the same.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scratch: array<f32>;         // numbers, and what page_codec_measure found
@group(0) @binding(2) var<storage, read_write> stripe: array<u32>;
@group(0) @binding(3) var<storage, read> tables: array<u32>;          // items
@group(0) @binding(4) var<storage, read> constants: array<u32>;

#include "lib/grid.wgsl"
#include "lib/page.wgsl"
#include "lib/page_form.wgsl"
#include "lib/page_encode_${CODEC}.wgsl"
#include "lib/page_scales_${CODEC}.wgsl"
#include "lib/half_${HALF}.wgsl"
#include "lib/page_constants.wgsl"
#include "lib/page_codec.wgsl"

// Codes of a channel's own share of its head's scale, 1 to 256 of 256: the smallest that is not below its step. Both are
// f16: the products are exact.
fn share(step: f32, scale: f32) -> u32 {
    if (scale == 0.0) {
        return 1u;
    }
    var share = u32(clamp(step / scale * 256.0, 1.0, 256.0));
    if (f32(share) * scale < step * 256.0) {
        share += 1u;
    }
    if (share > 1u && f32(share - 1u) * scale >= step * 256.0) {
        share -= 1u;
    }
    return min(share, 256u);
}

// The step of a head's channel.
fn channel_step(item: Item, kv_head: u32, channel: u32) -> f32 {
    let scale = scratch[item.steps_at + params.kv_heads * ${HEAD_DIM}u + kv_head];
    let at = kv_head * ${HEAD_DIM}u + channel;
    if (kind_of(item.to) == PROFILED) {
        return scale * first_constant(item.to.constants, kv_head, channel);
    }
    return scale * (f32(share(scratch[item.steps_at + at], scale)) * 0.00390625);
}

// The shaped code of a token's channel: what rounding has taken from the channel in the tokens before, one step at most, is
// found by going through them again.
fn shaped_code(item: Item, kv_head: u32, token: u32, channel: u32) -> u32 {
    let bits = bits_of(item.to);
    var found = 0u;
    var carry = 0.0;
    for (var t = 0u; t <= token; t++) {
        let step = scratch[item.steps_at + kv_head * ${CHUNK}u + t];
        let wanted = difference(item, element_of(kv_head, t, channel)) + carry;
        found = code(bits, wanted, step);
        carry = clamp(wanted - (f32(found) + lowest_of(bits)) * step, -step, step);
    }
    return found;
}

// Word `word` of a page of codes.
fn codes_word(item: Item, word: u32) -> u32 {
    let bits = bits_of(item.to);
    let is_by_token = kind_of(item.to) == BY_TOKEN;
    let group = group_of(item.to);
    let groups = (${HEAD_DIM}u + group - 1u) / group;
    let head_words = head_words_of(item.to);
    if (word < params.kv_heads * head_words) {
        let kv_head = word / head_words;
        let of_head = word % head_words;
        var packed = 0u;
        for (var i = 0u; i < 32u / bits; i++) {
            let index = of_head * (32u / bits) + i;
            var token = index / ${HEAD_DIM}u;
            var channel = index % ${HEAD_DIM}u;
            if (is_set(item.to, 4u)) {
                token = of_head % ${CHUNK}u;
                channel = of_head / ${CHUNK}u * (32u / bits) + i;
                if (channel >= ${HEAD_DIM}u) {
                    break;
                }
            }
            if (is_shaped(item.to)) {
                packed |= shaped_code(item, kv_head, token, channel) << (i * bits);
                continue;
            }
            var step: f32;
            if (is_by_token) {
                step = scratch[item.steps_at + (kv_head * ${CHUNK}u + token) * groups + channel / group];
            } else {
                step = channel_step(item, kv_head, channel);
            }
            let value = difference(item, element_of(kv_head, token, channel));
            packed |= code(bits, value, step) << (i * bits);
        }
        return packed;
    }
    // Halves behind the codes: scales, then bytes of channels.
    let scales = select(params.kv_heads, params.kv_heads * ${CHUNK}u * groups, is_by_token);
    let scales_at = item.steps_at + select(params.kv_heads * ${HEAD_DIM}u, 0u, is_by_token);
    var packed = 0u;
    for (var i = 0u; i < 2u; i++) {
        let index = 2u * (word - params.kv_heads * head_words) + i;
        if (index < scales) {
            packed |= f16_bits(scratch[scales_at + index]) << (16u * i);
        } else if (kind_of(item.to) == BY_CHANNEL) {
            for (var e = 0u; e < 2u; e++) {
                let channel = 2u * (index - scales) + e;
                if (channel < params.kv_heads * ${HEAD_DIM}u) {
                    let scale = scratch[scales_at + channel / ${HEAD_DIM}u];
                    let own = share(scratch[item.steps_at + channel], scale) - 1u;
                    packed |= own << (16u * i + 8u * e);
                }
            }
        }
    }
    return packed;
}

// Word `word` of a page of steps.
fn steps_word(item: Item, word: u32) -> u32 {
    let bits = bits_of(item.to);
    let step = scratch[item.steps_at];
    if (word < UNIT_WORDS) {
        return select(0u, bitcast<u32>(step), word == 0u);
    }
    let reach = f32(1u << (bits - 1u));
    var packed = 0u;
    for (var i = 0u; i < 32u / bits; i++) {
        let value = difference(item, (word - UNIT_WORDS) * (32u / bits) + i);
        var steps = floor(value / step + 0.5);
        // The quotient is rounded, and what is left is not: it tells on which side of a tie the value is.
        let left = fma(-steps, step, value);
        steps += select(0.0, 1.0, left >= 0.5 * step) - select(0.0, 1.0, left < -0.5 * step);
        // Conversions saturate, and the largest f32 below 2³¹ is 2³¹ − 128.
        let most = select(reach - 1.0, 2147483520.0, bits == 32u);
        var code = i32(clamp(steps, -reach, most));
        if (bits == 32u && steps >= reach) {
            code = 2147483647;
        }
        packed = insertBits(packed, bitcast<u32>(code), i * bits, bits);
    }
    return packed;
}

// Word `word` of a page of coefficients.
fn low_rank_word(item: Item, word: u32) -> u32 {
    let bits = bits_of(item.to);
    let rank = item.to.form >> 16u;
    let group = min(rank, ${GROUP}u);
    let groups = (rank + group - 1u) / group;
    let token_words = rank * bits / 32u;
    let steps_at = item.steps_at + ${CHUNK}u * rank;
    var packed = 0u;
    if (word < ${CHUNK}u * token_words) {
        let token = word / token_words;
        for (var i = 0u; i < 32u / bits; i++) {
            let index = word % token_words * (32u / bits) + i;
            let value = scratch[item.steps_at + token * rank + index];
            if (bits == 16u) {
                packed |= f16_bits(value) << (16u * i);
            } else {
                packed |= code(bits, value, scratch[steps_at + token * groups + index / group]) << (i * bits);
            }
        }
        return packed;
    }
    let scales = select(${CHUNK}u * groups, 0u, bits == 16u);
    for (var i = 0u; i < 2u; i++) {
        let index = 2u * (word - ${CHUNK}u * token_words) + i;
        if (index < scales) {
            packed |= f16_bits(scratch[steps_at + index]) << (16u * i);
        } else if (is_set(item.to, 1u) && index - scales < params.kv_heads * ${HEAD_DIM}u) {
            let channel = index - scales;
            let element = element_of(channel / ${HEAD_DIM}u, 0u, channel % ${HEAD_DIM}u);
            packed |= f16_bits(scratch[item.values_at + element]) << (16u * i);
        }
    }
    return packed;
}

// Word `word` of a page of numbers.
fn exact_word(item: Item, word: u32) -> u32 {
    let first = item.values_at + word * WORD_ELEMENTS;
    return encode(scratch[first], scratch[first + WORD_ELEMENTS - 1u]);
}

@compute @workgroup_size(${WORKGROUP})
fn page_codec_encode(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.items * params.groups) {
        return;
    }
    let item = item_of(index / params.groups);
    let word = index % params.groups * ${WORKGROUP}u + thread;
    if (word >= item.words) {
        return;
    }
    var packed: u32;
    switch (kind_of(item.to)) {
        case EXACT: {
            packed = exact_word(item, word);
        }
        case STEPS: {
            packed = steps_word(item, word);
        }
        case LOW_RANK: {
            packed = low_rank_word(item, word);
        }
        default: {
            packed = codes_word(item, word);
        }
    }
    stripe[item.to.at * UNIT_WORDS + word] = packed;
}
