// page_codec, second of three: the steps of codes, and of low-rank pages the coefficients. A workgroup takes a KV head, or
// the tokens that fall to its number.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> scratch: array<f32>;
// Binding 2 is the stripe of the layer, declared with its codec.
@group(0) @binding(3) var<storage, read> tables: array<u32>;  // items

#include "lib/grid.wgsl"
#include "lib/page.wgsl"
#include "lib/page_${CODEC}.wgsl"
#include "lib/f16_bits.wgsl"
#include "lib/page_codec.wgsl"

// A share of each thread.
var<workgroup> shares: array<vec4<f32>, ${WORKGROUP}u>;

// Shares of a group's largest magnitude that its largest code may stand for.
fn clips(bits: u32) -> u32 {
    return select(select(1u, 3u, bits == 4u), 6u, bits == 2u);
}

fn clip(bits: u32, i: u32) -> f32 {
    if (bits == 2u) {
        let first = vec3<f32>(1.0, 0.85, 0.7);
        let last = vec3<f32>(0.55, 0.42, 0.32);
        return select(first[i % 3u], last[i % 3u], i >= 3u);
    }
    return 1.0 - 0.1 * f32(i);
}

// An f16 as it is stored, and what it stands for.
fn as_half(value: f32) -> f32 {
    return f16_pair(f16_bits(value)).x;
}

// The one share where codes are shaped.
fn shaped_clip(bits: u32) -> f32 {
    return select(1.0, 0.85, bits == 2u);
}

// The largest magnitude of some numbers.
fn largest_of(item: Item, first: u32, count: u32, stride: u32) -> f32 {
    var largest = 0.0;
    for (var i = 0u; i < count; i++) {
        largest = max(largest, abs(difference(item, first + i * stride)));
    }
    return largest;
}

// The step under which the largest code stands for a share of the largest magnitude.
fn clipped_step(bits: u32, share: f32, largest: f32) -> f32 {
    let reach = select(f32((1u << (bits - 1u)) - 1u), 1.5, bits == 2u);
    return as_half(share * largest / reach);
}

// The step under which codes are nearest to some numbers, of those that clip them differently, the first of equals.
fn best_step(item: Item, bits: u32, first: u32, count: u32, stride: u32) -> f32 {
    let largest = largest_of(item, first, count, stride);
    var best = 0.0;
    var least = 3e38;
    for (var c = 0u; c < clips(bits); c++) {
        let step = clipped_step(bits, clip(bits, c), largest);
        var error = 0.0;
        for (var i = 0u; i < count; i++) {
            let value = difference(item, first + i * stride);
            let off = value - (f32(code(bits, value, step)) + lowest_of(bits)) * step;
            error += off * off;
        }
        if (error < least) {
            best = step;
            least = error;
        }
    }
    return best;
}

// The smallest f16 that is not below a magnitude.
fn half_above(value: f32) -> f32 {
    let near = f16_bits(value);
    let above = f16_pair(near + 1u).x;
    let same = f16_pair(near).x;
    return select(same, above, same < value);
}

// One step for each group of a token.
fn measure_tokens(item: Item, thread: u32, kv_head: u32) {
    let bits = bits_of(item.to);
    let group = group_of(item.to);
    let groups = (${HEAD_DIM}u + group - 1u) / group;
    for (var i = thread; i < ${CHUNK}u * groups; i += ${WORKGROUP}u) {
        let channel = i % groups * group;
        let first = element_of(kv_head, i / groups, channel);
        let count = min(group, ${HEAD_DIM}u - channel);
        var step: f32;
        if (is_shaped(item.to)) {
            step = clipped_step(bits, shaped_clip(bits), largest_of(item, first, count, 1u));
        } else {
            step = best_step(item, bits, first, count, 1u);
        }
        scratch[item.steps_at + kv_head * ${CHUNK}u * groups + i] = step;
    }
}

// One step for each channel, and the scale of the head, (kv_head) behind them.
fn measure_channels(item: Item, thread: u32, kv_head: u32) {
    let bits = bits_of(item.to);
    var largest = 0.0;
    for (var channel = thread; channel < ${HEAD_DIM}u; channel += ${WORKGROUP}u) {
        var step = best_step(item, bits, element_of(kv_head, 0u, channel), ${CHUNK}u, ${HEAD_DIM}u);
        scratch[item.steps_at + kv_head * ${HEAD_DIM}u + channel] = step;
        if (kind_of(item.to) == PROFILED) {
            step = step / first_constant(item.to.constants, kv_head, channel);
        }
        largest = max(largest, step);
    }
    shares[thread] = vec4<f32>(largest);
    workgroupBarrier();
    if (thread == 0u) {
        for (var i = 1u; i < ${WORKGROUP}u; i++) {
            largest = max(largest, shares[i].x);
        }
        scratch[item.steps_at + params.kv_heads * ${HEAD_DIM}u + kv_head] = half_above(largest);
    }
}

// MobiLoRA's step, by the cosine of a page and its anchor.
fn measure_page(item: Item, thread: u32) {
    var sums = vec4<f32>();
    for (var i = thread; i < params.kv_heads * ${CHUNK}u * ${HEAD_DIM}u; i += ${WORKGROUP}u) {
        let value = scratch[item.values_at + i];
        let anchor = scratch[item.anchor_at + i];
        sums = fma(vec4<f32>(value, value, anchor, 0.0), vec4<f32>(anchor, value, anchor, 0.0), sums);
    }
    shares[thread] = sums;
    workgroupBarrier();
    if (thread == 0u) {
        for (var i = 1u; i < ${WORKGROUP}u; i++) {
            sums += shares[i];
        }
        let norms = sqrt(sums.y) * sqrt(sums.z);
        var cosine = 1.0;
        if (norms > 0.0) {
            cosine = sums.x / norms;
        }
        // 2·ln(1+ε) of 10⁻², 10⁻³ and 10⁻⁴.
        let step = select(select(${STEP_FAR}, ${STEP_MIDDLE}, cosine >= 0.85), ${STEP_NEAR}, cosine >= 0.975);
        scratch[item.steps_at] = step;
    }
}

// What directions are multiplied with: a difference before the rotary embedding, less the mean.
fn unturned(item: Item, token: u32, kv_head: u32, channel: u32) -> f32 {
    var value = difference(item, element_of(kv_head, token, channel));
    let half = tables[params.directory_at - 2u];
    if (is_set(item.to, 2u) && channel < 2u * half) {
        let is_low = channel < half;
        let other = select(channel - half, channel + half, is_low);
        let angle = (item.position + token) * half + min(channel, other);
        let cos = table[angle];
        let sin = table[tables[params.directory_at - 1u] + angle];
        let partner = difference(item, element_of(kv_head, token, other)) * sin;
        value = fma(value, cos, select(-partner, partner, is_low));
    }
    return value - first_constant(item.to.constants, kv_head, channel);
}

// The coefficients of tokens, (token, rank), and their steps, (token, group), behind them.
fn measure_low_rank(item: Item, thread: u32, number: u32) {
    let bits = bits_of(item.to);
    let rank = item.to.form >> 16u;
    let group = min(rank, ${GROUP}u);
    let groups = (rank + group - 1u) / group;
    for (var token = number; token < ${CHUNK}u; token += params.groups) {
        for (var i = thread; i < rank; i += ${WORKGROUP}u) {
            var sum = 0.0;
            let row = direction_at(item.to.constants, i);
            for (var kv_head = 0u; kv_head < params.kv_heads; kv_head++) {
                for (var channel = 0u; channel < ${HEAD_DIM}u; channel++) {
                    let steps = direction_quad(row, kv_head, channel / 4u)[channel % 4u];
                    sum = fma(unturned(item, token, kv_head, channel), steps, sum);
                }
            }
            scratch[item.steps_at + token * rank + i] = sum * direction_scale(row);
        }
    }
    storageBarrier();
    if (bits == 16u) {
        return;
    }
    // Coefficients are no differences any more.
    var stored = item;
    stored.values_at = item.steps_at;
    stored.anchor_at = NONE;
    for (var token = number; token < ${CHUNK}u; token += params.groups) {
        for (var i = thread; i < groups; i += ${WORKGROUP}u) {
            let first = token * rank + i * group;
            let step = best_step(stored, bits, first, min(group, rank - i * group), 1u);
            scratch[item.steps_at + ${CHUNK}u * rank + token * groups + i] = step;
        }
    }
}

@compute @workgroup_size(${WORKGROUP})
fn page_codec_measure(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.items * params.groups) {
        return;
    }
    let item = item_of(index / params.groups);
    let number = index % params.groups;
    switch (kind_of(item.to)) {
        case BY_TOKEN: {
            measure_tokens(item, thread, number);
        }
        case BY_CHANNEL, PROFILED: {
            measure_channels(item, thread, number);
        }
        case STEPS: {
            if (number == 0u) {
                measure_page(item, thread);
            }
        }
        case LOW_RANK: {
            measure_low_rank(item, thread, number);
        }
        default: {}
    }
}
