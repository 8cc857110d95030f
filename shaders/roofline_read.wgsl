// roofline_read: does nothing but read. A workgroup reads a chunk of its own and adds the sum of its words to
// sums[workgroup], so that every word of every pass counts. There are as many workgroups as chunks, and fewer than one
// dimension of a grid holds.
struct Params {
    rounds: u32,  // times that each thread reads ${LOADS} vec4
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<u32>;  // of each chunk, modulo 2³²

var<workgroup> totals: array<u32, ${WORKGROUP}u>;  // of every thread
var<workgroup> totals_of: array<u32, ${ROOT}u>;

const_assert ${ROOT}u * ${ROOT}u == ${WORKGROUP}u;

@compute @workgroup_size(${WORKGROUP})
fn roofline_read(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) id: vec3<u32>) {
    var at = id.x * params.rounds * ${LOADS}u * ${WORKGROUP}u + thread;
    var total = vec4<u32>();
    for (var round = 0u; round < params.rounds; round++) {
        // All are under way before the first is needed.
#repeat i ${LOADS}
        let quad${i} = data[at + ${i}u * ${WORKGROUP}u];
#end
#repeat i ${LOADS}
        total += quad${i};
#end
        at += ${LOADS}u * ${WORKGROUP}u;
    }
    totals[thread] = total.x + total.y + total.z + total.w;
    workgroupBarrier();
    if (thread < ${ROOT}u) {
        var sum = 0u;
        for (var i = 0u; i < ${ROOT}u; i++) {
            sum += totals[thread * ${ROOT}u + i];
        }
        totals_of[thread] = sum;
    }
    workgroupBarrier();
    if (thread == 0u) {
        var sum = sums[id.x];
        for (var i = 0u; i < ${ROOT}u; i++) {
            sum += totals_of[i];
        }
        sums[id.x] = sum;
    }
}
