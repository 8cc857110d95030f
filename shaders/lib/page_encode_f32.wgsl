// A word of an f32 page: one element, which is its first and its last.
const WORD_ELEMENTS: u32 = 1u;

fn encode(first: f32, last: f32) -> u32 {
    return bitcast<u32>(first);
}
