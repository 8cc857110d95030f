// Q8_0 codes: signed bytes in order. A unit, one vec4<u32>, holds 16: half a block.
#include "lib/weight_quant.wgsl"

fn unit_quad(unit: vec4<u32>, quad: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(unit[quad]));
}
