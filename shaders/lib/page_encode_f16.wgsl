// A word of an f16 page: two elements.
#include "lib/f16_bits.wgsl"

const WORD_ELEMENTS: u32 = 2u;

fn encode(first: f32, last: f32) -> u32 {
    return f16_bits(first) | (f16_bits(last) << 16u);
}
