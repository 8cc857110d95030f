//! Logits held under a cap, smoothly.

/// `x = cap · tanh(x / cap)`, element by element.
pub fn softcap(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
}
