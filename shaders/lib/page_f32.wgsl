// Pages in f32: 4 elements in four words.
@group(0) @binding(2) var<storage, read> stripe: array<vec4<f32>>;  // pages, each (kv_head, token, head_dim)

// Elements 4·quad to 4·quad + 3 of the row that starts at a word.
fn page_quad(row: u32, quad: u32) -> vec4<f32> {
    return stripe[row / 4u + quad];
}
