// act=q8_0: activations as blocks of 32 signed bytes with one scale, as `kernels-ref` quantises them. A device may
// divide with an error of a few units in the last place, so that a value in the middle between two codes may get
// the other one; where division is exact, codes are the reference's.
#include "lib/f16_bits.wgsl"

// The larger of a magnitude and those of a quad. A NaN stays: a block that has one must not pass for zeros.
fn largest_of(quad: vec4<f32>, most: f32) -> f32 {
    var largest = most;
#repeat e 4
    largest = select(abs(quad[${e}]), largest, abs(quad[${e}]) <= largest);
#end
    return largest;
}

// The larger of two magnitudes, a NaN if one is.
fn largest_of_two(a: f32, b: f32) -> f32 {
    return select(select(a + b, b, a <= b), a, b <= a);
}

// What values of a block are multiplied by to be codes, from its largest magnitude: the scale is not yet rounded.
fn to_codes(largest: f32) -> f32 {
    let scale = largest / 127.0;
    return select(1.0 / scale, 0.0, scale == 0.0);
}

// The scale of a block as it is kept: rounded to f16.
fn kept_scale(largest: f32) -> f32 {
    return f16_pair(f16_bits(largest / 127.0)).x;
}

// The codes of a quad, rounded to the nearest, from the middle away from zero.
fn codes_of(quad: vec4<f32>, by: f32) -> u32 {
    let scaled = quad * by;
    let whole = trunc(scaled);
    let up = select(vec4<f32>(0.0), sign(scaled), abs(scaled - whole) >= vec4<f32>(0.5));
    return pack4xI8(vec4<i32>(whole + up));
}
