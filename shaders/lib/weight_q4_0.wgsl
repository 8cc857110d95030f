// Q4_0 codes: nibbles less 8. A unit, one vec4<u32>, holds 32: a block. As in GGUF, low nibbles are
// elements 0 to 15 and high nibbles 16 to 31, so quads 4 to 7 are the high nibbles of words 0 to 3.
#include "lib/weight_quant.wgsl"

fn unit_quad(unit: vec4<u32>, quad: u32) -> vec4<f32> {
    let codes = (unit[quad & 3u] >> (quad & 4u)) & 0x0f0f0f0fu;
    return vec4<f32>(unpack4xU8(codes)) - 8.0;
}
