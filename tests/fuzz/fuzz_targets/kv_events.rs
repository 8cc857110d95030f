//! Bytes as events of the KV manager.
#![no_main]

use interleaf_tests::fuzz::{MEMORY_LIMIT, kv_events};
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fuzz_target!(|bytes: &[u8]| {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let _ = kv_events(bytes);
    assert!(MEMORY.peak_usage() - before <= MEMORY_LIMIT);
});
