// Q8_0 codes: signed bytes in order. A unit, one vec4<u32>, holds 16: half a block.
#include "lib/weight_quant.wgsl"

// What a byte of unit_codes counts for.
const CODE_STEP: f32 = 1.0;

fn unit_codes(unit: vec4<u32>, half: u32) -> vec4<u32> {
    return unit;
}

fn unit_quad(unit: vec4<u32>, quad: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(unit[quad]));
}
