// lora_matmul for prompt rows: W is ${DTYPE}.
//
// A workgroup computes ${ROW_TILE} rows by ${OUT_TILE} outputs, a thread ${THREAD_ROWS} by ${THREAD_OUTS} of
// them in registers: dot products (tile_dots), then bias and expand.
//
// Gated, the entries are a gate and its up: the first half of a tile's outputs are of the one, the last of
// the other, and what is stored is activation(gate) · up.
#include "lib/lora_matmul.wgsl"
#include "lib/gate_${GATE}.wgsl"

const ROW_THREADS: u32 = ${ROW_TILE}u / ${THREAD_ROWS}u;
const OUT_THREADS: u32 = ${OUT_TILE}u / ${THREAD_OUTS}u;
const OWN_TILE: u32 = ${OUT_TILE}u / ${GATES}u;

#include "lib/tile_dots_${PRODUCTS}.wgsl"

var<workgroup> row_of: array<u32, ${ROW_TILE}>;

const_assert ${THREAD_ROWS}u == 4u && ${THREAD_OUTS}u == 4u;  // a thread's results are held in a mat4x4
const_assert ROW_THREADS * OUT_THREADS == ${WORKGROUP}u;

@compute @workgroup_size(${WORKGROUP})
fn lora_matmul_prefill(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let row_tiles = (params.rows + ${ROW_TILE}u - 1u) / ${ROW_TILE}u;
    let index = folded_index(id, grid);
    let first_row = (index % row_tiles) * ${ROW_TILE}u;
    let out_tile = index / row_tiles;
    if (out_tile >= params.tiles) {
        return;
    }
    let entry = entry_of(out_tile);
    let first_out = (out_tile - first_tile(entry)) * OWN_TILE;
    for (var i = thread; i < ${ROW_TILE}u; i += ${WORKGROUP}u) {
        row_of[i] = tables[params.rows_at + min(first_row + i, params.rows - 1u)];
    }
    workgroupBarrier();

    let sums = tile_dots(thread, entry, first_out);
    let thread_row = thread / OUT_THREADS;
    let thread_out = thread % OUT_THREADS;
    let stored = tables[entry + ENTRY_STORED];
    // Two entries share a tile: the outputs of the second are a thread's last.
#repeat r ${THREAD_ROWS}
    let row_${r} = row_of[thread_row + ${r}u * ROW_THREADS];
    let lives_${r} = first_row + thread_row + ${r}u * ROW_THREADS < params.rows;
    var more_${r} = vec4<f32>();
#end
#repeat e ${GATES}
    {
        let of_entry = entry + ${e}u * ENTRY_WORDS;
        let projection = tables[of_entry + ENTRY_PROJECTION];
        var ranks = 0u;
        for (var row = 0u; row < min(params.rows - first_row, ${ROW_TILE}u); row++) {
            ranks = max(ranks, expand_of(row_of[row], projection).rank);
        }
#repeat r ${THREAD_ROWS}
        let expand_${r} = expand_of(row_${r}, projection);
#end
        for (var first = 0u; first < ranks; first += Z_RANKS) {
            for (var i = thread; i < ${ROW_TILE}u * ${Z_QUADS}u; i += ${WORKGROUP}u) {
                let expand = expand_of(row_of[i / ${Z_QUADS}u], projection);
                x_tile[i] = z_quad(expand, first + i % ${Z_QUADS}u * 4u);
            }
            workgroupBarrier();
            for (var quad = 0u; quad < ${Z_QUADS}u && first + quad * 4u < ranks; quad++) {
#repeat r ${THREAD_ROWS}
                let z_${r} = x_tile[(thread_row + ${r}u * ROW_THREADS) * ${Z_QUADS}u + quad];
#end
#repeat o ${OWN_OUTS}
                {
                    let column = column_of(of_entry, first_out + thread_out + ${o}u * OUT_THREADS);
                    // Rows of one adapter share what is loaded of B.
                    let b_0 = b_quad(expand_0, column, first + quad * 4u);
#repeat r ${THREAD_ROWS}
                    var own_${r} = b_0;
                    if (expand_${r}.b_at != expand_0.b_at) {
                        own_${r} = b_quad(expand_${r}, column, first + quad * 4u);
                    }
                    more_${r}[${e}u * ${OWN_OUTS}u + ${o}u] = fma_quad(z_${r}, own_${r}, more_${r}[${e}u * ${OWN_OUTS}u + ${o}u]);
#end
                }
#end
            }
            workgroupBarrier();
        }
    }
#end
#repeat r ${THREAD_ROWS}
    if (lives_${r}) {
        let dots = sums[${r}];
#repeat o ${OWN_OUTS}
        let out_${o} = first_out + thread_out + ${o}u * OUT_THREADS;
        if (out_${o} < stored) {
            var second = 0.0;
#repeat e ${GATES}
            let entry_${e} = entry + ${e}u * ENTRY_WORDS;
            let value_${e} = biased(dots[${e}u * ${OWN_OUTS}u + ${o}u], entry_${e}, column_of(entry_${e}, out_${o}));
            let expand_${e} = expand_of(row_${r}, tables[entry_${e} + ENTRY_PROJECTION]);
            let whole_${e} = expanded(value_${e}, more_${r}[${e}u * ${OWN_OUTS}u + ${o}u], expand_${e});
            second = whole_${e};
#end
            store(gated(whole_0, second), entry, row_${r}, out_${o});
        }
#end
    }
#end
}
