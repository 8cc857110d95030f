// Weights in f32. A unit, one vec4<u32>, holds 4.
#include "lib/weight_float.wgsl"

fn unit_quad(unit: vec4<u32>, quad: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(unit);
}
