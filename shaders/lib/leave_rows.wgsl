    // The end of rows_dot: the sums of every output, a row to a component.
    workgroupBarrier();
#repeat o ${OUTS}
    leave_sums(thread, ${o}u, vec4<f32>(
#repeat r ${ROWS}
        sum_${o}_${r},
#end
#repeat r ${REST}
        0.0,
#end
    ));
#end
    workgroupBarrier();
