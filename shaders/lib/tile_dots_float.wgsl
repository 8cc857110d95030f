// The dot products of a tile in f32. Tiles of ${K_QUADS} quads of K are staged, weights as ${STAGE}, so a weight is
// unpacked once for ${ROW_TILE} rows. A staged row is one vec4 longer than its tile: eight threads that read eight
// rows then meet eight banks. K is walked from 0 in order, whatever the number of rows.
#include "lib/stage_${STAGE}.wgsl"

const STAGED: u32 = ${K_QUADS}u + 1u;
const TILE_UNITS: u32 = ${K_QUADS}u / ${UNIT_QUADS}u;

var<workgroup> x_tile: array<vec4<f32>, ${ROW_TILE}u * STAGED>;      // (ROW_TILE, STAGED), then z
var<workgroup> w_tile: array<vec4<staged_f>, ${OUT_TILE}u * STAGED>;  // (OUT_TILE, STAGED)

const_assert TILE_UNITS * ${UNIT_QUADS}u == ${K_QUADS}u;
const_assert ${Z_QUADS}u <= STAGED;

#include "lib/tile_loads.wgsl"

// A column for each row of the thread: its four outputs.
fn tile_dots(thread: u32, entry: u32, first_out: u32) -> mat4x4<f32> {
    let thread_row = thread / OUT_THREADS;
    let thread_out = thread % OUT_THREADS;
#repeat r ${THREAD_ROWS}
#repeat o ${THREAD_OUTS}
    var sum_${r}_${o} = 0.0;
#end
#end
    let tiles = (bound(params.x_quads) + ${K_QUADS}u - 1u) / ${K_QUADS}u;
    for (var tile = 0u; tile < tiles; tile++) {
        for (var i = thread; i < ${ROW_TILE}u * ${K_QUADS}u; i += ${WORKGROUP}u) {
            let value = tile_x(i / ${K_QUADS}u, tile * ${K_QUADS}u + i % ${K_QUADS}u);
            x_tile[i / ${K_QUADS}u * STAGED + i % ${K_QUADS}u] = value;
        }
        for (var i = thread; i < ${OUT_TILE}u * TILE_UNITS; i += ${WORKGROUP}u) {
            let out = i / TILE_UNITS;
            let unit_of_tile = i % TILE_UNITS;
            let staged = tile_unit(entry, first_out, out, tile * TILE_UNITS + unit_of_tile);
#repeat q ${UNIT_QUADS}
            w_tile[out * STAGED + unit_of_tile * ${UNIT_QUADS}u + ${q}u] = vec4<staged_f>(unit_quad(staged.unit, ${q}u) * staged.scale);
#end
        }
        workgroupBarrier();
        for (var quad = 0u; quad < ${K_QUADS}u; quad++) {
#repeat r ${THREAD_ROWS}
            let x_${r} = x_tile[(thread_row + ${r}u * ROW_THREADS) * STAGED + quad];
#end
#repeat o ${THREAD_OUTS}
            let w_${o} = vec4<f32>(w_tile[(thread_out + ${o}u * OUT_THREADS) * STAGED + quad]);
#repeat r ${THREAD_ROWS}
            sum_${r}_${o} = fma_quad(x_${r}, w_${o}, sum_${r}_${o});
#end
#end
        }
        workgroupBarrier();
    }
#include "lib/tile_sums.wgsl"
}
