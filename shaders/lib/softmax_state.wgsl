// The online softmax: a state is the largest score seen, the sum of exp(score − largest) and the sum of
// values weighted so. Blocks are merged into it one after another, in ascending order.

// Stands for −∞: no infinities in WGSL, whose compilers may assume that there are none.
const MASKED: f32 = -1e30;

struct Merge {
    largest: abreast,
    keep: abreast,  // factor of the state's sums
    take: abreast,  // factor of the block's sums
}

// An empty block must not touch a bit of the state, and WGSL does not promise that exp(0) is exactly 1.
fn merge(state_largest: abreast, block_largest: abreast, block_sum: abreast) -> Merge {
    let largest = max(state_largest, block_largest);
    let empty = block_sum == abreast(0.0);
    return Merge(
        largest,
        select(exp(state_largest - largest), abreast(1.0), empty),
        select(exp(block_largest - largest), abreast(0.0), empty),
    );
}
