// Constants of pages, by words: the first row in halves, then directions, each a scale and codes of 8 bits. A head begins
// with whole words, so that its quads do.
const HEAD_QUADS: u32 = (${HEAD_DIM}u + 3u) / 4u;

// Four channels of a head in the first row.
fn first_quad(at: u32, kv_head: u32, quad: u32) -> vec4<f32> {
    let word = at + 2u * (kv_head * HEAD_QUADS + quad);
    return vec4<f32>(f16_pair(constants[word]), f16_pair(constants[word + 1u]));
}

fn first_constant(at: u32, kv_head: u32, channel: u32) -> f32 {
    return f16_pair(constants[at + 2u * kv_head * HEAD_QUADS + channel / 2u] >> (16u * (channel % 2u))).x;
}

// Where a direction begins.
fn direction_at(at: u32, direction: u32) -> u32 {
    let quads = params.kv_heads * HEAD_QUADS;
    return at + 2u * quads + direction * (1u + quads);
}

fn direction_scale(row: u32) -> f32 {
    return bitcast<f32>(constants[row]);
}

// Four channels of a head, in steps of the scale.
fn direction_quad(row: u32, kv_head: u32, quad: u32) -> vec4<f32> {
    let codes = constants[row + 1u + kv_head * HEAD_QUADS + quad];
    return vec4<f32>((vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)) - 128.0;
}

// One of them.
fn direction_constant(row: u32, kv_head: u32, channel: u32) -> f32 {
    let codes = constants[row + 1u + kv_head * HEAD_QUADS + channel / 4u];
    return f32((codes >> (8u * (channel % 4u))) & 255u) - 128.0;
}
