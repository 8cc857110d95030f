// The two binary16 of a word as binary32, lower half first, by integers: exact for every bit pattern. WGSL
// lets unpack2x16float flush subnormals, and the scales of small blocks and small LoRA factors are such.
fn f16_pair(word: u32) -> vec2<f32> {
    let halves = vec2<u32>(word, word >> 16u);
    let sign = (halves & vec2<u32>(0x8000u)) << vec2<u32>(16u);
    let magnitude = (halves & vec2<u32>(0x7fffu)) << vec2<u32>(13u);
    let exponent = magnitude & vec2<u32>(0x0f800000u);
    // The exponent's bias goes from 15 to 127; infinities and NaN keep the largest exponent.
    let special = exponent == vec2<u32>(0x0f800000u);
    let normal = magnitude + select(vec2<u32>(0x38000000u), vec2<u32>(0x70000000u), special);
    // Subnormals are steps of 2⁻²⁴, which are normal in binary32.
    let steps = bitcast<vec2<u32>>(vec2<f32>(magnitude >> vec2<u32>(13u)) * 0x1p-24f);
    return bitcast<vec2<f32>>(sign | select(normal, steps, exponent == vec2<u32>(0u)));
}
