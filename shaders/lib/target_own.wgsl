// Results go to a buffer of their own.
@group(0) @binding(${BINDING}) var<storage, read_write> ${NAME}: array<vec4<f32>>;  // (rows, stride)

fn store_${NAME}(at: u32, value: vec4<f32>) {
    ${NAME}[at] = value;
}
