// Pages in f16 whose rows are not whole quads: the last quad of a row is filled up with zeros.
#include "lib/half_${HALF}.wgsl"

@group(0) @binding(2) var<storage, read> stripe: array<u32>;  // pages, each (kv_head, token, head_dim)

// Elements 4·quad to 4·quad + 3 of the row that starts at a word.
fn page_quad(row: u32, quad: u32) -> vec4<f32> {
    let word = 2u * quad;
    let inside = word + 1u < ${ROW_WORDS}u;
    let second = stripe[row + min(word + 1u, ${ROW_WORDS}u - 1u)];
    return vec4<f32>(f16_pair(stripe[row + word]), f16_pair(select(0u, second, inside)));
}
