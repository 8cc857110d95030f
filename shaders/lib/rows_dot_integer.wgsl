// Dot products of ${ROWS} rows of x with ${OUTS} rows of weights by act=q8_0, over one lane's share of K.
//
// Stretches of x are quantised as they are staged, half a block to a thread. Spans, lanes and their order are those
// of products in f32; a block's products are one integer, which meets both scales. Ends with every lane's sums in
// `staged`, (OUTS, thread), a row to a component, behind a barrier.
fn rows_dot_${ROWS}(thread: u32, rows: vec4<u32>, weight_at: vec4<u32>, scale_at: vec4<u32>) {
    // 64 of K: what one word of scales covers, in halves of blocks.
    const SPAN_HALVES = 4u;
    const HALVES = ${X_QUADS}u / 4u / ${ROWS}u;
    const TURNS = HALVES / (SPAN_HALVES * ${LANES}u);
    const_assert TURNS * SPAN_HALVES * ${LANES}u * ${ROWS}u * 4u == ${X_QUADS}u;
    let lane = thread % ${LANES}u;
    // A thread's half block: which row of the tile, which half of the stretch, where it is staged.
    let half_row = thread / HALVES;
    let half_block = thread % HALVES;
    let span = half_block / SPAN_HALVES;
    let turn_at = (span / ${LANES}u * SPAN_HALVES + half_block % SPAN_HALVES) * ${LANES}u;
    let half_at = half_row * HALVES + turn_at + span % ${LANES}u;
#repeat o ${OUTS}
#repeat r ${ROWS}
    var sum_${o}_${r} = 0.0;
#end
#end
    let quads = bound(params.x_quads);
    for (var first = 0u; first < quads; first += 4u * HALVES) {
        let quad = first + 4u * half_block;
        var largest = 0u;
#repeat q 4
        var value_${q} = vec4<f32>();
        if (quad + ${q}u < params.x_quads) {
            value_${q} = x_quad(half_row, rows[half_row], quad + ${q}u);
        }
        largest = largest_of(value_${q}, largest);
#end
        workgroupBarrier();
        x_largest[thread] = largest;
        workgroupBarrier();
        largest = max(largest, x_largest[thread ^ 1u]);
        let by = to_codes(largest);
        x_codes[half_at] = vec4<u32>(
#repeat q 4
            codes_of(value_${q}, by),
#end
        );
        if (half_block % 2u == 0u) {
            x_scales[thread / 2u] = kept_scale(largest);
        }
        workgroupBarrier();
        for (var turn = 0u; turn < TURNS; turn++) {
            let of_stretch = turn * ${LANES}u + lane;
            let unit = first / ${UNIT_QUADS}u + of_stretch * ${SPAN}u;
            if (unit >= params.row_units) {
                break;
            }
            let x_at = turn * SPAN_HALVES * ${LANES}u + lane;
#repeat o ${OUTS}
            let scales_${o} = span_scales(scale_at[${o}], unit);
#end
#repeat b 2
            {
#repeat o ${OUTS}
                // A row may end within a span: its last unit is then read again, and meets zeros.
                let units_${o} = array<vec4<u32>, ${BLOCK_UNITS}u>(
#repeat u ${BLOCK_UNITS}
                    weights[weight_at[${o}] + min(unit + ${b}u * ${BLOCK_UNITS}u + ${u}u, params.row_units - 1u)],
#end
                );
                let scale_${o} = unit_scale(scales_${o}, ${b}u * ${BLOCK_UNITS}u) * CODE_STEP;
#repeat r ${ROWS}
                var whole_${o}_${r} = 0;
#end
#end
#repeat h 2
#repeat r ${ROWS}
                let x_${h}_${r} = x_codes[${r}u * HALVES + x_at + (2u * ${b}u + ${h}u) * ${LANES}u];
#end
#repeat o ${OUTS}
                let w_${h}_${o} = unit_codes(units_${o}[${h}u / ${UNIT_HALVES}u], ${h}u % ${UNIT_HALVES}u);
#repeat r ${ROWS}
                whole_${o}_${r} = dot_codes(x_${h}_${r}, w_${h}_${o}, whole_${o}_${r});
#end
#end
#end
#repeat r ${ROWS}
                let by_${r} = x_scales[(${r}u * HALVES) / 2u + of_stretch * 2u + ${b}u];
#end
#repeat o ${OUTS}
#repeat r ${ROWS}
                sum_${o}_${r} = fma(f32(whole_${o}_${r}), scale_${o} * by_${r}, sum_${o}_${r});
#end
#end
            }
#end
        }
    }
#include "lib/leave_rows.wgsl"
}
