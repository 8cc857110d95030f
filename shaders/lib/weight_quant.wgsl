// Units of quantised weights: a unit's products are summed as codes, and its scale is applied once. The
// f16 scales stand behind the codes in the same buffer, two to a word, one per block of 32: a word of them
// covers a span of ${SPAN} units.
fn span_scales(at: u32, unit: u32) -> u32 {
    let word = at + unit / ${SPAN}u;
    return weights[word >> 2u][word & 3u];
}

fn unit_scale(scales: u32, unit_of_span: u32) -> f32 {
    return f16_pair(scales)[unit_of_span * 2u / ${SPAN}u];
}

fn unit_start(sum: f32) -> f32 {
    return 0.0;
}

fn unit_end(sum: f32, unit_sum: f32, scale: f32) -> f32 {
    return fma(scale, unit_sum, sum);
}
