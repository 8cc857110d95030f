// PCG4D (Jarzynski and Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020, listing 9): four words
// in, four well-mixed words out.
fn pcg4d_mix(word: vec4<u32>) -> vec4<u32> {
    var v = word;
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}

fn pcg4d(word: vec4<u32>) -> vec4<u32> {
    let mixed = pcg4d_mix(word * 1664525u + vec4<u32>(1013904223u));
    return pcg4d_mix(mixed ^ (mixed >> vec4<u32>(16u)));
}
