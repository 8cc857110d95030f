// Units of weights without a scale: their products go straight into the running sum.
fn span_scales(at: u32, unit: u32) -> u32 {
    return 0u;
}

fn unit_scale(scales: u32, unit_of_span: u32) -> f32 {
    return 1.0;
}

fn unit_start(sum: f32) -> f32 {
    return sum;
}

fn unit_end(sum: f32, unit_sum: f32, scale: f32) -> f32 {
    return unit_sum;
}
