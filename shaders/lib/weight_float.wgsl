// Units of weights without a scale: their products go straight into the running sum.
fn unit_scale(row: u32, unit: u32) -> f32 {
    return 1.0;
}

fn unit_start(sum: f32) -> f32 {
    return sum;
}

fn unit_end(sum: f32, unit_sum: f32, scale: f32) -> f32 {
    return unit_sum;
}
