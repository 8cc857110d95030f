// The two binary16 of a word as binary32, lower half first, by the device's own conversion. WGSL lets it flush
// subnormals, which the scales of small blocks and small LoRA factors are: for devices that keep them.
fn f16_pair(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}
