//! What a piece of work costs: the memory that it held at once, and the time it took.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::MEMORY;

/// The allocator counts for the whole process, so what is measured, and what else holds much, is done one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Keeps other work waiting, measured or large, while it is held.
pub fn alone() -> impl Drop {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of some work, the most bytes that it held beyond those held before, and its time. To be called
/// while [`alone`].
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, usize, Duration) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let start = Instant::now();
    let result = work();
    (result, MEMORY.peak_usage().saturating_sub(before), start.elapsed())
}
