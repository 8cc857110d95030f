// Four terms of a dot product, added one after another, as explicit fma: whether a product and a sum are
// contracted is not left open. WGSL lets an implementation evaluate fma fused or as two roundings; that a
// row has the same bits alone and in a batch rests on a device doing one of the two throughout a kernel.
// Devices do, and tests compare a row alone with itself in a batch, bit by bit.
fn fma_quad(a: vec4<f32>, b: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}
