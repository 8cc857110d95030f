// Four terms of a dot product, added one after another. Written as explicit fma, so that a compiler has
// no choice of contraction to make: every variant of a kernel adds a row's terms with the same roundings.
fn fma_quad(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}
