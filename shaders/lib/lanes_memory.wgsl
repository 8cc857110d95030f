// The end of a dot product that ${LANES} lanes have shared: all sums lie in workgroup memory, and whoever
// wants a result adds them in the order of the lanes.
fn leave_sums(thread: u32, o: u32, sums: vec4<f32>) {
    staged[o * ${WORKGROUP}u + thread] = sums;
}

// Output o of lane group `group`, for one row.
fn lanes_sum(group: u32, o: u32, row: u32) -> f32 {
    let first = o * ${WORKGROUP}u + group * ${LANES}u;
    var sum = staged[first][row];
    for (var lane = 1u; lane < ${LANES}u; lane++) {
        sum += staged[first + lane][row];
    }
    return sum;
}
