// Words of four neighbouring tokens, the first of them a multiple of four: of all four in one load.
@group(0) @binding(${WORD_QUADS}) var<storage, read> word_quads: array<vec4<u32>>;  // the stripe once more

fn words_abreast(at: u32) -> vec4<u32> {
    return word_quads[at / 4u];
}
