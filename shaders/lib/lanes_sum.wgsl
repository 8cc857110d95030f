// The end of a dot product that ${LANES} lanes have shared: their sums, in the order of the lanes.
// `out` counts the outputs of the workgroup; group g of lanes computed outputs g * ${OUTS} onwards.
fn lanes_sum(out: u32, row: u32) -> f32 {
    let first = ((out % ${OUTS}u) * ${ROW_TILE}u + row) * ${WORKGROUP}u + (out / ${OUTS}u) * ${LANES}u;
    var sum = partials[first];
    for (var lane = 1u; lane < ${LANES}u; lane++) {
        sum += partials[first + lane];
    }
    return sum;
}
