//! What threads wait for each other by: the standard library's, or shuttle's in tests that try many orders in which threads may run.

#[cfg(all(test, feature = "shuttle"))]
pub use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, mpsc},
    thread,
};
#[cfg(not(all(test, feature = "shuttle")))]
pub use std::{
    sync::{Condvar, Mutex, MutexGuard, mpsc},
    thread,
};

/// How many orders a test tries.
#[cfg(test)]
#[cfg(feature = "shuttle")]
pub fn orders() -> usize {
    std::env::var("INTERLEAF_SHUTTLE").map_or(300, |orders| orders.parse().expect("a number"))
}
