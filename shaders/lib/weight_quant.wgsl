// Units of quantised weights: a unit's products are summed as codes, and its scale is applied once.
// The f16 scales stand behind the codes in the same buffer, two to a word, one per block of 32.
fn unit_scale(row: u32, unit: u32) -> f32 {
    let block = unit * ${UNIT_QUADS}u / 8u;
    let word = params.scales_at + row * params.scale_words + (block >> 1u);
    return f16_pair(weights[word >> 2u][word & 3u] >> ((block & 1u) * 16u)).x;
}

fn unit_start(sum: f32) -> f32 {
    return 0.0;
}

fn unit_end(sum: f32, unit_sum: f32, scale: f32) -> f32 {
    return fma(scale, unit_sum, sum);
}
