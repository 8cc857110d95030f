//! Bytes as events that a cache is told of, beside a device whose words say what they were computed from.

// The cache's own tests have it, which know no crate but the cache.
#[path = "../../../crates/kv/tests/naive/world/mod.rs"]
mod world;

/// Plays a stream of events; tells how many sequences found tokens that were there.
pub fn play(bytes: &[u8]) -> usize {
    world::stream::play(bytes).unwrap_or_else(|e| panic!("{e}"))
}
