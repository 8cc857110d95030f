// Pages in f16: 4 elements in two words.
#include "lib/half_${HALF}.wgsl"

@group(0) @binding(2) var<storage, read> stripe: array<vec2<u32>>;  // pages, each (kv_head, token, head_dim)

// Elements 4·quad to 4·quad + 3 of the row that starts at a word.
fn page_quad(row: u32, quad: u32) -> vec4<f32> {
    let words = stripe[row / 2u + quad];
    return vec4<f32>(f16_pair(words.x), f16_pair(words.y));
}
