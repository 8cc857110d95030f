// Q4_0 codes: nibbles less 8. A unit, one vec4<u32>, holds 32: a block. As in GGUF, low nibbles are
// elements 0 to 15 and high nibbles 16 to 31, so quads 4 to 7 are the high nibbles of words 0 to 3.
#include "lib/weight_quant.wgsl"

// What a byte of unit_codes counts for: a nibble less 8 is a signed byte if it is the upper half of one.
const CODE_STEP: f32 = 0.0625;

fn unit_codes(unit: vec4<u32>, half: u32) -> vec4<u32> {
    return ((unit << vec4<u32>(4u - 4u * half)) & vec4<u32>(0xf0f0f0f0u)) ^ vec4<u32>(0x80808080u);
}

fn unit_quad(unit: vec4<u32>, quad: u32) -> vec4<f32> {
    let codes = (unit[quad & 3u] >> (quad & 4u)) & 0x0f0f0f0fu;
    return vec4<f32>(unpack4xU8(codes)) - 8.0;
}
