// The online softmax: a state is the largest score seen, the sum of exp(score − largest) and the sum of
// values weighted so. Blocks are merged into it one after another, in ascending order.

// Stands for −∞: no infinities in WGSL, whose compilers may assume that there are none.
const MASKED: f32 = -1e30;

struct Merge {
    largest: lanes,
    keep: lanes,  // factor of the state's sums
    take: lanes,  // factor of the block's sums
}

// An empty block must not touch a bit of the state, and WGSL does not promise that exp(0) is exactly 1.
fn merge(state_largest: lanes, block_largest: lanes, block_sum: lanes) -> Merge {
    let largest = max(state_largest, block_largest);
    let empty = block_sum == lanes(0.0);
    return Merge(
        largest,
        select(exp(state_largest - largest), lanes(1.0), empty),
        select(exp(block_largest - largest), lanes(0.0), empty),
    );
}
