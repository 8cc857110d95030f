// Words of four neighbouring tokens, the first of them a multiple of four: of all four in one load.
fn words_abreast(at: u32) -> vec4<u32> {
    return words[at / 4u];
}
