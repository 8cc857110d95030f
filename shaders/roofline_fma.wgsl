// roofline_fma: does nothing but multiply and add in registers. Each thread carries chains of x = x · factor + addend
// that do not depend on each other, and stores their sum, so that all of them count.
struct Params {
    rounds: u32,  // of ${STEPS} steps each
    factor: f32,
    addend: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> answers: array<f32>;  // of every thread

@compute @workgroup_size(${WORKGROUP})
fn roofline_fma(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) id: vec3<u32>) {
    let factor = vec4<f32>(params.factor);
    let addend = vec4<f32>(params.addend);
    let first = f32(thread) * ${APART} + vec4<f32>(0.0, 1.0, 2.0, 3.0);
#repeat chain ${CHAINS}
    var x${chain} = first + 4.0 * ${chain}.0;
#end
    for (var round = 0u; round < params.rounds; round++) {
#repeat step ${STEPS}
#repeat chain ${CHAINS}
        x${chain} = fma(x${chain}, factor, addend);
#end
#end
    }
    var sum = vec4<f32>();
#repeat chain ${CHAINS}
    sum += x${chain};
#end
    answers[id.x * ${WORKGROUP}u + thread] = sum.x + sum.y + sum.z + sum.w;
}
