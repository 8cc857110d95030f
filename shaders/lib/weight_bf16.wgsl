// Weights in bf16, the upper halves of f32. A unit, one vec4<u32>, holds 8.
#include "lib/weight_float.wgsl"

fn unit_quad(unit: vec4<u32>, quad: u32) -> vec4<f32> {
    let low = unit[2u * quad];
    let high = unit[2u * quad + 1u];
    return bitcast<vec4<f32>>(
        vec4<u32>(low << 16u, low & 0xffff0000u, high << 16u, high & 0xffff0000u),
    );
}
