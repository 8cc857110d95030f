// The end of a dot product that ${LANES} lanes have shared, where a subgroup holds all of them: they add
// their sums pair by pair through registers, and one word of workgroup memory is left of each output. Lanes are taken
// to be numbered through a subgroup as they are through the workgroup, which devices do for workgroups of one dimension
// and no standard promises.
fn leave_sums(thread: u32, o: u32, sums: vec4<f32>) {
    var sum = sums;
    for (var distance = 1u; distance < ${LANES}u; distance *= 2u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    if (thread % ${LANES}u == 0u) {
        staged[o * (${WORKGROUP}u / ${LANES}u) + thread / ${LANES}u] = sum;
    }
}

// Output o of lane group `group`, for one row.
fn lanes_sum(group: u32, o: u32, row: u32) -> f32 {
    return staged[o * (${WORKGROUP}u / ${LANES}u) + group][row];
}
