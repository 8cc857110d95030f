// Dot products of ${ROWS} rows of x with ${OUTS} rows of weights in f32, over one lane's share of K.
//
// x passes through workgroup memory in stretches, so that a workgroup loads it once, whatever the number of
// outputs. Lane l of ${LANES} takes the spans l, l + ${LANES}, ... of K, in that order, whatever the number
// of rows and the length of a stretch. A span is what one word of scales covers: ${SPAN} units. Quads that the
// lanes read at the same time are staged side by side. Sums stay in registers with names of their own: indexed
// private arrays spill on phones. A unit is read and unpacked once for all rows. Ends with every lane's sums in
// `staged`, (OUTS, thread), a row to a component, behind a barrier.
fn rows_dot_${ROWS}(thread: u32, rows: vec4<u32>, weight_at: vec4<u32>, scale_at: vec4<u32>) {
    const SPAN_QUADS = ${SPAN}u * ${UNIT_QUADS}u;
    const STRETCH = ${X_QUADS}u / ${ROWS}u;
    const TURNS = STRETCH / (SPAN_QUADS * ${LANES}u);
    const_assert TURNS * SPAN_QUADS * ${LANES}u * ${ROWS}u == ${X_QUADS}u && ${X_QUADS}u <= ${STAGED}u;
    let lane = thread % ${LANES}u;
#repeat o ${OUTS}
#repeat r ${ROWS}
    var sum_${o}_${r} = 0.0;
#end
#end
    let quads = bound(params.x_quads);
    for (var first = 0u; first < quads; first += STRETCH) {
        workgroupBarrier();
        for (var i = thread; i < ${ROWS}u * STRETCH; i += ${WORKGROUP}u) {
            let quad = i % STRETCH;
            var value = vec4<f32>();
            if (first + quad < params.x_quads) {
                value = x_quad(i / STRETCH, rows[i / STRETCH], first + quad);
            }
            let span = quad / SPAN_QUADS;
            let turn_at = (span / ${LANES}u * SPAN_QUADS + quad % SPAN_QUADS) * ${LANES}u;
            staged[i / STRETCH * STRETCH + turn_at + span % ${LANES}u] = value;
        }
        workgroupBarrier();
        for (var turn = 0u; turn < TURNS; turn++) {
            let unit = first / ${UNIT_QUADS}u + (turn * ${LANES}u + lane) * ${SPAN}u;
            if (unit >= params.row_units) {
                break;
            }
            let x_at = turn * SPAN_QUADS * ${LANES}u + lane;
#repeat o ${OUTS}
            let scales_${o} = span_scales(scale_at[${o}], unit);
#end
#repeat u ${SPAN}
            {
                // A row may end within a span: its last unit is then read again, and meets zeros.
                let unit_at = min(unit + ${u}u, params.row_units - 1u);
#repeat o ${OUTS}
                let unit_${o} = weights[weight_at[${o}] + unit_at];
#repeat r ${ROWS}
                var unit_sum_${o}_${r} = unit_start(sum_${o}_${r});
#end
#end
#repeat q ${UNIT_QUADS}
#repeat r ${ROWS}
                let x_${q}_${r} = staged[${r}u * STRETCH + x_at + (${u}u * ${UNIT_QUADS}u + ${q}u) * ${LANES}u];
#end
#repeat o ${OUTS}
                let w_${q}_${o} = unit_quad(unit_${o}, ${q}u);
#repeat r ${ROWS}
                unit_sum_${o}_${r} = fma_quad(x_${q}_${r}, w_${q}_${o}, unit_sum_${o}_${r});
#end
#end
#end
#repeat o ${OUTS}
                let scale_${o} = unit_scale(scales_${o}, ${u}u);
#repeat r ${ROWS}
                sum_${o}_${r} = unit_end(sum_${o}_${r}, unit_sum_${o}_${r}, scale_${o});
#end
#end
            }
#end
        }
    }
#include "lib/leave_rows.wgsl"
}
