// lora_matmul for generated rows: W is ${DTYPE}, read once for up to ${ROW_TILE} rows.
//
// A workgroup computes ${OUT_TILE} outputs of ${ROW_TILE} rows. ${LANES} lanes share the K of an output,
// each lane ${OUTS} outputs, so that a value of x that was loaded serves ${OUTS} of them. Lanes read
// neighbouring 16-byte units. One barrier, then a thread per result adds the lanes, the bias and the
// expand. A lone row takes the one-row body: the same terms in the same order with fewer registers. Rows of
// a tile are unrolled into expressions of their own in any case, so that one body for all would not tie a
// row's bits closer together (see fma_quad).
#include "lib/lora_matmul.wgsl"

var<workgroup> partials: array<f32, ${OUTS}u * ${ROW_TILE}u * ${WORKGROUP}u>;  // (OUTS, ROW_TILE, thread)

#include "lib/rows_dot.wgsl" ROWS=1
#include "lib/rows_dot.wgsl" ROWS=${ROW_TILE}
#include "lib/lanes_sum.wgsl"

const_assert ${ROW_TILE}u == 4u;  // the rows of a tile are held in a vec4
const_assert ${WORKGROUP}u / ${LANES}u * ${OUTS}u == ${OUT_TILE}u;

@compute @workgroup_size(${WORKGROUP})
fn lora_matmul_decode(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    // Row tiles are the fastest index: workgroups that read the same weights run together.
    let row_tiles = (params.rows + ${ROW_TILE}u - 1u) / ${ROW_TILE}u;
    let index = folded_index(id, grid);
    let first_row = (index % row_tiles) * ${ROW_TILE}u;
    let first_out = (index / row_tiles) * ${OUT_TILE}u;
    if (first_out >= params.outs_stored) {
        return;
    }
    let count = min(params.rows - first_row, ${ROW_TILE}u);
    let last = params.rows - 1u;
    let rows = vec4<u32>(
#repeat r ${ROW_TILE}
        tables[params.rows_at + min(first_row + ${r}u, last)],
#end
    );
    let lane_out = first_out + (thread / ${LANES}u) * ${OUTS}u;
    let weight_row = min(vec4<u32>(lane_out) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.outs - 1u));
    let weight_at = weight_row * params.row_units;
    if (count == 1u) {
        rows_dot_1(thread, rows * params.x_quads, weight_row, weight_at);
    } else {
        rows_dot_${ROW_TILE}(thread, rows * params.x_quads, weight_row, weight_at);
    }
    workgroupBarrier();
    for (var i = thread; i < count * ${OUT_TILE}u; i += ${WORKGROUP}u) {
        let out = i % ${OUT_TILE}u;
        let row = i / ${OUT_TILE}u;
        if (first_out + out < params.outs_stored) {
            store(lanes_sum(out, row), rows[row], first_out + out);
        }
    }
}
