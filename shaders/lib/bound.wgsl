// A loop's bound, at most the vec4 of x, that no driver takes for a constant of the dispatch: Mesa's software Vulkan would
// compile the kernel anew at every dispatch, for many times what it takes to run.
fn bound(count: u32) -> u32 {
    return min(count, arrayLength(&x));
}
