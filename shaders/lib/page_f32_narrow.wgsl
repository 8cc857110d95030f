// Pages in f32 whose rows are not whole quads: the last quad of a row is filled up with zeros.
@group(0) @binding(2) var<storage, read> stripe: array<vec2<f32>>;  // pages, each (kv_head, token, head_dim)

// Elements 4·quad to 4·quad + 3 of the row that starts at a word.
fn page_quad(row: u32, quad: u32) -> vec4<f32> {
    let pair = 2u * quad;
    let inside = pair + 1u < ${ROW_WORDS}u / 2u;
    let second = stripe[row / 2u + min(pair + 1u, ${ROW_WORDS}u / 2u - 1u)];
    return vec4<f32>(stripe[row / 2u + pair], select(vec2<f32>(), second, inside));
}
