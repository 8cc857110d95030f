// GELU in its tanh form: ½x(1 + tanh(u)) is x·sigmoid(2u), which does not cancel for negative x.
fn activation(x: f32) -> f32 {
    const TWICE_SQRT_2_BY_PI = 1.5957691216;
    let twice_u = TWICE_SQRT_2_BY_PI * fma(0.044715 * x * x, x, x);
    return x / (1.0 + exp(clamp(-twice_u, -88.0, 88.0)));
}
