// roofline_count: does next to nothing, so that what it takes is what any dispatch takes. Each one reads what the one
// before has written.
struct Params {
    by: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> count: array<u32>;

@compute @workgroup_size(1)
fn roofline_count() {
    count[0] += params.by;
}
