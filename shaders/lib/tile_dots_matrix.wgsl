// The dot products of a tile in f32 by the device's 8 × 8 matrices, which a subgroup of 32 holds together. Each of the
// workgroup's subgroups has ${SUBGROUP_ROWS} rows of the tile. Tiles are staged as for products in registers; results
// pass through workgroup memory to the threads that finish them. Threads are taken to be numbered through subgroups as they
// are through the workgroup.
const STRIDE: u32 = 4u * (${K_QUADS}u + 1u);
const TILE_UNITS: u32 = ${K_QUADS}u / ${UNIT_QUADS}u;

var<workgroup> x_tile: array<vec4<f32>, ${ROW_TILE}u * ${Z_QUADS}u>;  // z only
var<workgroup> x_values: array<f32, ${ROW_TILE}u * STRIDE>;           // (ROW_TILE, STRIDE)
var<workgroup> w_values: array<f32, ${OUT_TILE}u * STRIDE>;           // (OUT_TILE, STRIDE), then the results

const_assert TILE_UNITS * ${UNIT_QUADS}u == ${K_QUADS}u;
const_assert ${WORKGROUP}u / 32u * ${SUBGROUP_ROWS}u == ${ROW_TILE}u;
const_assert ${SUBGROUP_ROWS}u == 16u && ${OUT_TILE}u == 32u;  // two by four matrices
const_assert ${ROW_TILE}u <= STRIDE;

#include "lib/tile_loads.wgsl"

// A column for each row of the thread: its four outputs.
fn tile_dots(thread: u32, entry: u32, first_out: u32) -> mat4x4<f32> {
    let first_row = thread / 32u * ${SUBGROUP_ROWS}u;
#repeat r 2
#repeat o 4
    var sum_${r}_${o} = coop_mat8x8<f32, C>();
#end
#end
    let tiles = (bound(params.x_quads) + ${K_QUADS}u - 1u) / ${K_QUADS}u;
    for (var tile = 0u; tile < tiles; tile++) {
        for (var i = thread; i < ${ROW_TILE}u * ${K_QUADS}u; i += ${WORKGROUP}u) {
            let value = tile_x(i / ${K_QUADS}u, tile * ${K_QUADS}u + i % ${K_QUADS}u);
            let at = i / ${K_QUADS}u * STRIDE + i % ${K_QUADS}u * 4u;
#repeat e 4
            x_values[at + ${e}u] = value[${e}];
#end
        }
        for (var i = thread; i < ${OUT_TILE}u * TILE_UNITS; i += ${WORKGROUP}u) {
            let out = i / TILE_UNITS;
            let unit_of_tile = i % TILE_UNITS;
            let staged = tile_unit(entry, first_out, out, tile * TILE_UNITS + unit_of_tile);
#repeat q ${UNIT_QUADS}
            {
                let value = unit_quad(staged.unit, ${q}u) * staged.scale;
                let at = out * STRIDE + (unit_of_tile * ${UNIT_QUADS}u + ${q}u) * 4u;
#repeat e 4
                w_values[at + ${e}u] = value[${e}];
#end
            }
#end
        }
        workgroupBarrier();
        for (var k = 0u; k < 4u * ${K_QUADS}u; k += 8u) {
#repeat r 2
            // Rows of x are rows of the first factor.
            let x_${r} = coopLoadT<coop_mat8x8<f32, A>>(&x_values[(first_row + 8u * ${r}u) * STRIDE + k], STRIDE);
#end
#repeat o 4
            // Rows of W are columns of the second.
            let w_${o} = coopLoad<coop_mat8x8<f32, B>>(&w_values[8u * ${o}u * STRIDE + k], STRIDE);
#repeat r 2
            sum_${r}_${o} = coopMultiplyAdd(x_${r}, w_${o}, sum_${r}_${o});
#end
#end
        }
        workgroupBarrier();
    }
#repeat r 2
#repeat o 4
    coopStoreT(sum_${r}_${o}, &w_values[(first_row + 8u * ${r}u) * ${OUT_TILE}u + 8u * ${o}u], ${OUT_TILE}u);
#end
#end
    workgroupBarrier();
    let own = thread / OUT_THREADS * ${OUT_TILE}u + thread % OUT_THREADS;
    return mat4x4<f32>(
#repeat r ${THREAD_ROWS}
#repeat o ${THREAD_OUTS}
        w_values[own + ${r}u * ROW_THREADS * ${OUT_TILE}u + ${o}u * OUT_THREADS],
#end
#end
    );
}
