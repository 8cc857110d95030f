// Quads of K, as a loop's bound that no driver takes for a constant of the dispatch: Mesa's software Vulkan would
// compile the kernel anew at every dispatch, for many times what it takes to run.
fn k_quads() -> u32 {
    return min(params.x_quads, arrayLength(&x));
}
