// lora_matmul for generated rows: W is ${DTYPE}, read once for up to ${ROW_TILE} rows.
//
// A workgroup computes ${OUT_TILE} outputs of ${ROW_TILE} rows. ${LANES} lanes share the K of an output,
// each lane ${OUTS} outputs, so that a value of x that was staged serves ${OUTS} of them. A thread per result
// then adds the lanes, the bias and the expand. A lone row takes the one-row body: the same terms in the same
// order with fewer registers. Rows of a tile are unrolled into expressions of their own in any case, so that
// one body for all would not tie a row's bits closer together (see fma_quad).
//
// Gated, the entries are a gate and its up: a lane's first outputs are of the one, its last of the other,
// and what is stored is activation(gate) · up.
#include "lib/lora_matmul.wgsl"
#include "lib/gate_${GATE}.wgsl"

var<workgroup> staged: array<vec4<f32>, ${STAGED}u>;  // x of f32 products, then the sums of every lane, then z

fn x_quad(of_tile: u32, row: u32, quad: u32) -> vec4<f32> {
    return x[params.x_at + row * params.x_stride + quad];
}

#include "lib/lanes_${LANES_BY}.wgsl"
#include "lib/rows_dots_${PRODUCTS}.wgsl"

const_assert ${ROW_TILE}u == 4u;  // the rows of a tile are held in a vec4
const_assert ${WORKGROUP}u / ${LANES}u * ${OUTS}u == ${OUT_TILE}u;
const_assert ${STAGED}u >= ${OUTS}u * ${WORKGROUP}u;
const_assert ${STAGED}u >= ${GATES}u * ${ROW_TILE}u * ${Z_QUADS}u;
const_assert ${RESULTS}u * ${WORKGROUP}u >= ${ROW_TILE}u * OWN_TILE;

// Outputs of one entry: half of a tile's where two entries share it.
const OWN_OUTS: u32 = ${OUTS}u / ${GATES}u;
const OWN_TILE: u32 = ${OUT_TILE}u / ${GATES}u;

@compute @workgroup_size(${WORKGROUP})
fn lora_matmul_decode(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    // Row tiles are the fastest index: workgroups that read the same weights run together.
    let row_tiles = (params.rows + ${ROW_TILE}u - 1u) / ${ROW_TILE}u;
    let index = folded_index(id, grid);
    let tile = index / row_tiles;
    if (tile >= params.tiles) {
        return;
    }
    let first_row = (index % row_tiles) * ${ROW_TILE}u;
    let count = min(params.rows - first_row, ${ROW_TILE}u);
    let last = params.rows - 1u;
    let rows = vec4<u32>(
#repeat r ${ROW_TILE}
        tables[params.rows_at + min(first_row + ${r}u, last)],
#end
    );
    let entry = entry_of(tile);
    let first_out = (tile - first_tile(entry)) * OWN_TILE;
    let lane_out = first_out + (thread / ${LANES}u) * OWN_OUTS;
#repeat o ${OUTS}
    let entry_${o} = entry + (${o}u / OWN_OUTS) * ENTRY_WORDS;
    let weight_row_${o} = min(lane_out + ${o}u % OWN_OUTS, tables[entry_${o} + ENTRY_OUTS] - 1u);
#end
    var weight_at = vec4<u32>();
    var scale_at = vec4<u32>();
#repeat o ${OUTS}
    weight_at[${o}] = tables[entry_${o} + ENTRY_CODES] + weight_row_${o} * params.row_units;
    scale_at[${o}] = tables[entry_${o} + ENTRY_SCALES] + weight_row_${o} * tables[entry_${o} + ENTRY_SCALE_WORDS];
#end
    if (count == 1u) {
        rows_dot_1(thread, rows, weight_at, scale_at);
    } else {
        rows_dot_${ROW_TILE}(thread, rows, weight_at, scale_at);
    }
    let stored = tables[entry + ENTRY_STORED];
#repeat i ${RESULTS}
    let at_${i} = thread + ${i}u * ${WORKGROUP}u;
    let row_${i} = min(at_${i} / OWN_TILE, count - 1u);
    let of_tile_${i} = at_${i} % OWN_TILE;
    let out_${i} = first_out + of_tile_${i};
    let lives_${i} = at_${i} < count * OWN_TILE && out_${i} < stored;
#repeat e ${GATES}
    let column_${i}_${e} = column_of(entry + ${e}u * ENTRY_WORDS, out_${i});
    let dot_${i}_${e} = lanes_sum(of_tile_${i} / OWN_OUTS, of_tile_${i} % OWN_OUTS + ${e}u * OWN_OUTS, row_${i});
    let expand_${i}_${e} = expand_of(rows[row_${i}], tables[entry + ${e}u * ENTRY_WORDS + ENTRY_PROJECTION]);
    var sum_${i}_${e} = 0.0;
#end
#end
    var ranks = 0u;
    for (var row = 0u; row < count; row++) {
#repeat e ${GATES}
        ranks = max(ranks, expand_of(rows[row], tables[entry + ${e}u * ENTRY_WORDS + ENTRY_PROJECTION]).rank);
#end
    }
    for (var first = 0u; first < ranks; first += Z_RANKS) {
        workgroupBarrier();
        for (var i = thread; i < ${GATES}u * count * ${Z_QUADS}u; i += ${WORKGROUP}u) {
            let of_entry = entry + i / (count * ${Z_QUADS}u) * ENTRY_WORDS;
            let row = rows[i / ${Z_QUADS}u % count];
            let expand = expand_of(row, tables[of_entry + ENTRY_PROJECTION]);
            staged[i] = z_quad(expand, first + i % ${Z_QUADS}u * 4u);
        }
        workgroupBarrier();
#repeat i ${RESULTS}
#repeat e ${GATES}
        if (lives_${i}) {
            let z_at = (${e}u * count + row_${i}) * ${Z_QUADS}u;
            for (var quad = 0u; quad < ${Z_QUADS}u && first + quad * 4u < expand_${i}_${e}.rank; quad++) {
                let b = b_quad(expand_${i}_${e}, column_${i}_${e}, first + quad * 4u);
                sum_${i}_${e} = fma_quad(staged[z_at + quad], b, sum_${i}_${e});
            }
        }
#end
#end
    }
#repeat i ${RESULTS}
    if (lives_${i}) {
        var second = 0.0;
#repeat e ${GATES}
        let value_${e} = biased(dot_${i}_${e}, entry + ${e}u * ENTRY_WORDS, column_${i}_${e});
        let whole_${e} = expanded(value_${e}, sum_${i}_${e}, expand_${i}_${e});
        second = whole_${e};
#end
        store(gated(whole_0, second), entry, rows[row_${i}], out_${i});
    }
#end
}
