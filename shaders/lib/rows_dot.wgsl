// Dot products of ${ROWS} rows of x with ${OUTS} rows of weights, over one lane's share of K.
//
// Lane l of ${LANES} takes the units l, l + ${LANES}, ... of K, in that order, whatever the number of
// rows, and leaves its sums in `partials`. Everything stays in registers with names of their own:
// indexed private arrays spill on phones. A unit is read and unpacked once for all rows.
fn rows_dot_${ROWS}(thread: u32, x_at: vec4<u32>, weight_row: vec4<u32>, weight_at: vec4<u32>) {
#repeat o ${OUTS}
#repeat r ${ROWS}
    var sum_${o}_${r} = 0.0;
#end
#end
    for (var unit = thread % ${LANES}u; unit < params.row_units; unit += ${LANES}u) {
#repeat o ${OUTS}
        let unit_${o} = weights[weight_at[${o}] + unit];
        let scale_${o} = unit_scale(weight_row[${o}], unit);
#repeat r ${ROWS}
        var unit_sum_${o}_${r} = unit_start(sum_${o}_${r});
#end
#end
#repeat q ${UNIT_QUADS}
#repeat r ${ROWS}
        let x_${q}_${r} = x[x_at[${r}] + unit * ${UNIT_QUADS}u + ${q}u];
#end
#repeat o ${OUTS}
        let w_${q}_${o} = unit_quad(unit_${o}, ${q}u);
#repeat r ${ROWS}
        unit_sum_${o}_${r} = fma_quad(x_${q}_${r}, w_${q}_${o}, unit_sum_${o}_${r});
#end
#end
#end
#repeat o ${OUTS}
#repeat r ${ROWS}
        sum_${o}_${r} = unit_end(sum_${o}_${r}, unit_sum_${o}_${r}, scale_${o});
#end
#end
    }
#repeat o ${OUTS}
#repeat r ${ROWS}
    partials[(${o}u * ${ROW_TILE}u + ${r}u) * ${WORKGROUP}u + thread] = sum_${o}_${r};
#end
#end
}
