// Weights in f16. A unit, one vec4<u32>, holds 8. Read without the f16 feature.
#include "lib/weight_float.wgsl"

fn unit_quad(unit: vec4<u32>, quad: u32) -> vec4<f32> {
    return vec4<f32>(f16_pair(unit[2u * quad]), f16_pair(unit[2u * quad + 1u]));
}
