// act=q8_0: activations as blocks of 32 signed bytes with one scale, as `kernels-ref` quantises them. A device may
// divide with an error of a few units in the last place, so that a value in the middle between two codes may get
// the other one; where division is exact, codes are the reference's.
#include "lib/f16_bits.wgsl"

// The larger of a magnitude and those of a quad, in bits: as integers they have the same order, and a NaN is above them
// all and stays. A block that has one must not pass for zeros.
fn largest_of(quad: vec4<f32>, most: u32) -> u32 {
    let magnitudes = bitcast<vec4<u32>>(quad) & vec4<u32>(0x7fffffffu);
    return max(max(max(magnitudes.x, magnitudes.y), max(magnitudes.z, magnitudes.w)), most);
}

// What values of a block are multiplied by to be codes, from its largest magnitude: the scale is not yet rounded.
fn to_codes(largest: u32) -> f32 {
    let scale = bitcast<f32>(largest) / 127.0;
    return select(1.0 / scale, 0.0, scale == 0.0);
}

// The scale of a block as it is kept: rounded to f16.
fn kept_scale(largest: u32) -> f32 {
    return f16_pair(f16_bits(bitcast<f32>(largest) / 127.0)).x;
}

// The codes of a quad, rounded to the nearest, from the middle away from zero.
fn codes_of(quad: vec4<f32>, by: f32) -> u32 {
    let scaled = quad * by;
    let whole = trunc(scaled);
    let up = select(vec4<f32>(0.0), sign(scaled), abs(scaled - whole) >= vec4<f32>(0.5));
    return pack4xI8(vec4<i32>(whole + up));
}
