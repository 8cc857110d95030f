//! Bytes as the `config.json` of a model.
#![no_main]

use interleaf_tests::fuzz::{MEMORY_LIMIT, config};
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fuzz_target!(|bytes: &[u8]| {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let _ = config(bytes);
    assert!(MEMORY.peak_usage() - before <= MEMORY_LIMIT);
});
