// The root-mean-square norm of whole rows, by one workgroup, with the residual that it takes in first. Every
// kernel that norms a row does it through here: the same terms in the same order, so the same bits.
#include "lib/norm_params.wgsl"

var<workgroup> squares: array<f32, ${WORKGROUP}u>;   // of every thread
var<workgroup> squares_of: array<f32, ${NORM_ROOT}u>;

const_assert ${NORM_ROOT}u * ${NORM_ROOT}u == ${WORKGROUP}u;

#include "lib/residual_${RESIDUAL}.wgsl"

// 1 / √(mean + epsilon) from the sum of squares that each thread brings.
fn root_of(thread: u32, own: f32, epsilon: f32) -> f32 {
    squares[thread] = own;
    workgroupBarrier();
    if (thread < ${NORM_ROOT}u) {
        var sum = 0.0;
        for (var i = 0u; i < ${NORM_ROOT}u; i++) {
            sum += squares[thread * ${NORM_ROOT}u + i];
        }
        squares_of[thread] = sum;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < ${NORM_ROOT}u; i++) {
        sum += squares_of[i];
    }
    workgroupBarrier();
    return 1.0 / sqrt(sum / f32(params.norm.cols) + epsilon);
}

// What a row of x is multiplied by: y for itself, x for the residual.
fn norm_of(thread: u32, row: u32) -> vec2<f32> {
    let after = residual_norm(thread, row);
    var own = 0.0;
    for (var quad = thread; quad < params.x_quads; quad += ${WORKGROUP}u) {
        let value = summed(row, quad, after);
        own = fma_quad(value, value, own);
    }
    return vec2<f32>(after, root_of(thread, own, params.norm.epsilon));
}

fn normed_quad(sum: vec4<f32>, quad: u32, by: vec2<f32>) -> vec4<f32> {
    return sum * by.y * vectors[params.norm.weight_at + quad];
}
