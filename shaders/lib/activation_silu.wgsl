// silu: x·sigmoid(x). The exponent is held where exp neither overflows nor loses anything.
fn activation(x: f32) -> f32 {
    return x / (1.0 + exp(min(-x, 88.0)));
}
