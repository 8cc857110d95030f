// The word of one token.
fn words_abreast(at: u32) -> vec4<u32> {
    return vec4<u32>(words[at], 0u, 0u, 0u);
}
