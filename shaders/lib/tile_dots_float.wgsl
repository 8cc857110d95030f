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
            let quad = tile * ${K_QUADS}u + i % ${K_QUADS}u;
            var value = vec4<f32>();
            if (quad < params.x_quads) {
                value = x[params.x_at + row_of[i / ${K_QUADS}u] * params.x_stride + quad];
            }
            x_tile[i / ${K_QUADS}u * STAGED + i % ${K_QUADS}u] = value;
        }
        for (var i = thread; i < ${OUT_TILE}u * TILE_UNITS; i += ${WORKGROUP}u) {
            let out = i / TILE_UNITS;
            let of_entry = entry + out / OWN_TILE * ENTRY_WORDS;
            let weight_row = min(first_out + out % OWN_TILE, tables[of_entry + ENTRY_OUTS] - 1u);
            let unit_of_tile = i % TILE_UNITS;
            let unit_of_row = tile * TILE_UNITS + unit_of_tile;
            let safe = min(unit_of_row, params.row_units - 1u);
            let inside = unit_of_row < params.row_units;
            let unit_at = tables[of_entry + ENTRY_CODES] + weight_row * params.row_units + safe;
            let unit = select(vec4<u32>(), weights[unit_at], inside);
            let scale_at = tables[of_entry + ENTRY_SCALES] + weight_row * tables[of_entry + ENTRY_SCALE_WORDS];
            let scale = select(0.0, unit_scale(span_scales(scale_at, safe), safe % ${SPAN}u), inside);
#repeat q ${UNIT_QUADS}
            w_tile[out * STAGED + unit_of_tile * ${UNIT_QUADS}u + ${q}u] = vec4<staged_f>(unit_quad(unit, ${q}u) * scale);
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
    return mat4x4<f32>(
#repeat r ${THREAD_ROWS}
#repeat o ${THREAD_OUTS}
        sum_${r}_${o},
#end
#end
    );
}
