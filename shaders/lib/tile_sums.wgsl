    // The end of tile_dots where sums are in registers.
    return mat4x4<f32>(
#repeat r ${THREAD_ROWS}
#repeat o ${THREAD_OUTS}
        sum_${r}_${o},
#end
#end
    );
