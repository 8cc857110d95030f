// One element of an f16 page: a half of a word. By integers on every device, since it is the memory that is waited for.
#include "lib/half_integer.wgsl"

// Element i of the row that starts at a word.
fn page_element(row: u32, i: u32) -> f32 {
    let pair = f16_pair(stripe[row + i / 2u]);
    return select(pair.x, pair.y, i % 2u == 1u);
}
