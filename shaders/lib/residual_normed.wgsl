// A residual is added to x that has a norm of its own (Gemma's norms behind attention and MLP).
fn added(row: u32, quad: u32) -> vec4<f32> {
    return add[params.norm.add_at + row * params.norm.add_stride + quad];
}

fn residual_norm(thread: u32, row: u32) -> f32 {
    var own = 0.0;
    for (var quad = thread; quad < params.x_quads; quad += ${WORKGROUP}u) {
        let value = added(row, quad);
        own = fma_quad(value, value, own);
    }
    return root_of(thread, own, params.norm.after_epsilon);
}

fn summed(row: u32, quad: u32, after: f32) -> vec4<f32> {
    // An explicit fma: whether it is contracted must not depend on the kernel that this is part of.
    return fma(added(row, quad) * after, vectors[params.norm.after_at + quad], x_before(row, quad));
}
