// One element of an f32 page: a word.
// Element i of the row that starts at a word.
fn page_element(row: u32, i: u32) -> f32 {
    return bitcast<f32>(stripe[row + i]);
}
