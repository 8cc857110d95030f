// The dot products of a tile by act=q8_0: codes of x, which `quantise` has made, times codes of weights, each block
// of 32 as one integer, which meets both scales. Tiles of ${K_BLOCKS} blocks are staged; a staged row is one vec4
// longer, as in f32.
const STAGED: u32 = 2u * ${K_BLOCKS}u + 1u;
const TILE_UNITS: u32 = ${K_BLOCKS}u * ${BLOCK_UNITS}u;

var<workgroup> x_tile: array<vec4<f32>, ${ROW_TILE}u * ${Z_QUADS}u>;  // z only
var<workgroup> x_codes: array<vec4<u32>, ${ROW_TILE}u * STAGED>;      // (ROW_TILE, STAGED)
var<workgroup> w_codes: array<vec4<u32>, ${OUT_TILE}u * STAGED>;      // (OUT_TILE, STAGED)
var<workgroup> x_scales: array<f32, ${ROW_TILE}u * ${K_BLOCKS}u>;     // (K_BLOCKS, ROW_TILE)
var<workgroup> w_scales: array<f32, ${OUT_TILE}u * ${K_BLOCKS}u>;     // (K_BLOCKS, OUT_TILE)

#include "lib/dot_codes.wgsl"

// A column for each row of the thread: its four outputs.
fn tile_dots(thread: u32, entry: u32, first_out: u32) -> mat4x4<f32> {
    let thread_row = thread / OUT_THREADS;
    let thread_out = thread % OUT_THREADS;
    // x is codes here, two vec4 and more to a block.
    let blocks = bound(params.x_quads / 8u);
#repeat r ${THREAD_ROWS}
#repeat o ${THREAD_OUTS}
    var sum_${r}_${o} = 0.0;
#end
#end
    for (var first = 0u; first < blocks; first += ${K_BLOCKS}u) {
        for (var i = thread; i < ${ROW_TILE}u * ${K_BLOCKS}u; i += ${WORKGROUP}u) {
            let row = i / ${K_BLOCKS}u;
            let block = i % ${K_BLOCKS}u;
            let row_at = params.x_at + row_of[row] * params.x_stride;
            let inside = first + block < blocks;
            if (inside) {
                x_codes[row * STAGED + 2u * block] = x[row_at + 2u * (first + block)];
                x_codes[row * STAGED + 2u * block + 1u] = x[row_at + 2u * (first + block) + 1u];
                x_scales[block * ${ROW_TILE}u + row] = scale_of_block(row_at, blocks, first + block);
            } else {
                x_codes[row * STAGED + 2u * block] = vec4<u32>();
                x_codes[row * STAGED + 2u * block + 1u] = vec4<u32>();
                x_scales[block * ${ROW_TILE}u + row] = 0.0;
            }
        }
        for (var i = thread; i < ${OUT_TILE}u * TILE_UNITS; i += ${WORKGROUP}u) {
            let out = i / TILE_UNITS;
            let of_entry = entry + out / OWN_TILE * ENTRY_WORDS;
            let weight_row = min(first_out + out % OWN_TILE, tables[of_entry + ENTRY_OUTS] - 1u);
            let unit_of_tile = i % TILE_UNITS;
            // What is behind a row meets zeros of x.
            let unit = min(first * ${BLOCK_UNITS}u + unit_of_tile, params.row_units - 1u);
            let codes = weights[tables[of_entry + ENTRY_CODES] + weight_row * params.row_units + unit];
#repeat h ${UNIT_HALVES}
            w_codes[out * STAGED + unit_of_tile * ${UNIT_HALVES}u + ${h}u] = unit_codes(codes, ${h}u);
#end
            if (unit_of_tile % ${BLOCK_UNITS}u == 0u) {
                let scale_at = tables[of_entry + ENTRY_SCALES] + weight_row * tables[of_entry + ENTRY_SCALE_WORDS];
                let scale = unit_scale(span_scales(scale_at, unit), unit % ${SPAN}u) * CODE_STEP;
                w_scales[unit_of_tile / ${BLOCK_UNITS}u * ${OUT_TILE}u + out] = scale;
            }
        }
        workgroupBarrier();
        for (var block = 0u; block < ${K_BLOCKS}u; block++) {
#repeat r ${THREAD_ROWS}
            let x_at_${r} = (thread_row + ${r}u * ROW_THREADS) * STAGED + 2u * block;
            let x_${r}_0 = x_codes[x_at_${r}];
            let x_${r}_1 = x_codes[x_at_${r} + 1u];
            let by_${r} = x_scales[block * ${ROW_TILE}u + thread_row + ${r}u * ROW_THREADS];
#end
#repeat o ${THREAD_OUTS}
            {
                let w_at = (thread_out + ${o}u * OUT_THREADS) * STAGED + 2u * block;
                let w_0 = w_codes[w_at];
                let w_1 = w_codes[w_at + 1u];
                let scale = w_scales[block * ${OUT_TILE}u + thread_out + ${o}u * OUT_THREADS];
#repeat r ${THREAD_ROWS}
                let whole_${r} = dot_codes(x_${r}_1, w_1, dot_codes(x_${r}_0, w_0, 0));
                sum_${r}_${o} = fma(f32(whole_${r}), scale * by_${r}, sum_${r}_${o});
#end
            }
#end
        }
        workgroupBarrier();
    }
#include "lib/tile_sums.wgsl"
}

// The scale of a block of x: scales stand behind the codes of a row.
fn scale_of_block(row_at: u32, blocks: u32, block: u32) -> f32 {
    return bitcast<f32>(x[row_at + 2u * blocks + block / 4u][block % 4u]);
}
