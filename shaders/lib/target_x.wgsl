// Results go to the buffer of x: in its place, or beside it.
fn store_${NAME}(at: u32, value: vec4<f32>) {
    x[at] = value;
}
