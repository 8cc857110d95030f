// Sixteen products of signed bytes, added to a sum: exact, as sums of a block stay far below 2³¹.
fn dot_codes(a: vec4<u32>, b: vec4<u32>, sum: i32) -> i32 {
    let low = dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y);
    return sum + low + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}
