// The rotate-half form of the rotary embedding: the pair (i, i + half) turns by the angle of its position.
// The table holds the cosines of all positions, then the sines.
struct Turned {
    low: f32,
    high: f32,
}

fn rotate(low: f32, high: f32, position: u32, i: u32) -> Turned {
    let cos = table[position * params.half + i];
    let sin = table[params.sines_at + position * params.half + i];
    return Turned(fma(low, cos, -(high * sin)), fma(high, cos, low * sin));
}
