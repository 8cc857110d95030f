// lora_matmul for prompt rows: W is ${DTYPE}.
//
// A workgroup computes ${ROW_TILE} rows by ${OUT_TILE} outputs, a thread 4 by 4 of them in registers.
// Tiles of ${K_QUADS} quads of K are staged as f32, so a weight is unpacked once for ${ROW_TILE} rows. A
// staged row is one vec4 longer than its tile: eight threads that read eight rows then meet eight banks.
// K is walked from 0 in order, whatever the number of rows.
#include "lib/lora_matmul.wgsl"

const STAGED: u32 = ${K_QUADS}u + 1u;
const TILE_UNITS: u32 = ${K_QUADS}u / ${UNIT_QUADS}u;

var<workgroup> x_tile: array<vec4<f32>, ${ROW_TILE}u * STAGED>;  // (ROW_TILE, STAGED)
var<workgroup> w_tile: array<vec4<f32>, ${OUT_TILE}u * STAGED>;  // (OUT_TILE, STAGED)
var<workgroup> row_of: array<u32, ${ROW_TILE}>;

const_assert ${ROW_TILE}u == 32u && ${OUT_TILE}u == 32u && ${WORKGROUP}u == 64u;  // 8 × 8 threads
const_assert TILE_UNITS * ${UNIT_QUADS}u == ${K_QUADS}u;

@compute @workgroup_size(${WORKGROUP})
fn lora_matmul_prefill(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let row_tiles = (params.rows + ${ROW_TILE}u - 1u) / ${ROW_TILE}u;
    let index = folded_index(id, grid);
    let first_row = (index % row_tiles) * ${ROW_TILE}u;
    let first_out = (index / row_tiles) * ${OUT_TILE}u;
    if (first_out >= params.outs_stored) {
        return;
    }
    for (var i = thread; i < ${ROW_TILE}u; i += ${WORKGROUP}u) {
        row_of[i] = tables[params.rows_at + min(first_row + i, params.rows - 1u)];
    }
    workgroupBarrier();

    let thread_row = thread / 8u;
    let thread_out = thread % 8u;
#repeat r 4
#repeat o 4
    var sum_${r}_${o} = 0.0;
#end
#end
    let tiles = (params.x_quads + ${K_QUADS}u - 1u) / ${K_QUADS}u;
    for (var tile = 0u; tile < tiles; tile++) {
        for (var i = thread; i < ${ROW_TILE}u * ${K_QUADS}u; i += ${WORKGROUP}u) {
            let row = i / ${K_QUADS}u;
            let quad = tile * ${K_QUADS}u + i % ${K_QUADS}u;
            let value = x[row_of[row] * params.x_quads + min(quad, params.x_quads - 1u)];
            x_tile[row * STAGED + i % ${K_QUADS}u] = select(vec4<f32>(), value, quad < params.x_quads);
        }
        for (var i = thread; i < ${OUT_TILE}u * TILE_UNITS; i += ${WORKGROUP}u) {
            let out = i / TILE_UNITS;
            let weight_row = min(first_out + out, params.outs - 1u);
            let unit_of_tile = i % TILE_UNITS;
            let unit_of_row = tile * TILE_UNITS + unit_of_tile;
            let safe = min(unit_of_row, params.row_units - 1u);
            let inside = unit_of_row < params.row_units;
            let unit = select(vec4<u32>(), weights[weight_row * params.row_units + safe], inside);
            let scale = select(0.0, unit_scale(weight_row, safe), inside);
#repeat q ${UNIT_QUADS}
            w_tile[out * STAGED + unit_of_tile * ${UNIT_QUADS}u + ${q}u] = unit_quad(unit, ${q}u) * scale;
#end
        }
        workgroupBarrier();
        for (var quad = 0u; quad < ${K_QUADS}u; quad++) {
#repeat r 4
            let x_${r} = x_tile[(thread_row + ${r}u * 8u) * STAGED + quad];
#end
#repeat o 4
            let w_${o} = w_tile[(thread_out + ${o}u * 8u) * STAGED + quad];
#repeat r 4
            sum_${r}_${o} = fma_quad(x_${r}, w_${o}, sum_${r}_${o});
#end
#end
        }
        workgroupBarrier();
    }
#repeat r 4
    if (first_row + thread_row + ${r}u * 8u < params.rows) {
        let row = row_of[thread_row + ${r}u * 8u];
#repeat o 4
        if (first_out + thread_out + ${o}u * 8u < params.outs_stored) {
            store(sum_${r}_${o}, row, first_out + thread_out + ${o}u * 8u);
        }
#end
    }
#end
}
