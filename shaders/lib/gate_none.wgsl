// A result is stored as it is.
fn gated(value: f32, unused: f32) -> f32 {
    return value;
}
