// x is normed before it is shrunk; what the first workgroups store of it is for the matmul that follows. The
// sum with the residual goes to a buffer of its own, because other workgroups still read x.
@group(0) @binding(5) var<storage, read> vectors: array<vec4<f32>>;        // the norms' weights
@group(0) @binding(6) var<storage, read_write> normed: array<vec4<f32>>;   // (rows, normed_stride)
#repeat i ${RESIDUALS}
@group(0) @binding(7) var<storage, read> add: array<vec4<f32>>;            // (rows, add_stride)
@group(0) @binding(8) var<storage, read_write> sums: array<vec4<f32>>;     // (rows, sum_stride): x + add
#end

#include "lib/norm.wgsl"

// What each row of the tile is multiplied by.
var<workgroup> by_row: array<vec2<f32>, ${ROW_TILE}u>;

fn x_before(row: u32, quad: u32) -> vec4<f32> {
    return x[params.x_at + row * params.x_stride + quad];
}

fn norm_row(thread: u32, row: u32) {
    let by = norm_of(thread, row);
    for (var quad = thread; quad < params.x_quads; quad += ${WORKGROUP}u) {
        let sum = summed(row, quad, by.x);
#repeat i ${RESIDUALS}
        sums[params.norm.sum_at + row * params.norm.sum_stride + quad] = sum;
#end
        normed[params.norm.normed_at + row * params.norm.normed_stride + quad] = normed_quad(sum, quad, by);
    }
}

fn prepare(thread: u32, rows: vec4<u32>, count: u32) {
    for (var i = 0u; i < count; i++) {
        let by = norm_of(thread, rows[i]);
        // Rows behind the last repeat it.
        if (thread == 0u) {
            for (var row = i; row < ${ROW_TILE}u; row++) {
                by_row[row] = by;
            }
        }
    }
    workgroupBarrier();
}

fn x_quad(of_tile: u32, row: u32, quad: u32) -> vec4<f32> {
    let by = by_row[of_tile];
    return normed_quad(summed(row, quad, by.x), quad, by);
}
