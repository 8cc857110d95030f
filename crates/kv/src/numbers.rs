//! Maps by the manager's own numbers. Nobody outside chooses these, so that they need no hash that resists being chosen,
//! and the same events walk the same way through a map in every run.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A map by numbers that count up.
pub type Numbered<K, V> = HashMap<K, V, BuildHasherDefault<Multiply>>;

/// Some of them.
pub type Numbers<K> = HashSet<K, BuildHasherDefault<Multiply>>;

/// Multiplies by an odd number near 2⁶⁴/φ: neighbours stay apart in the low bits and in the high ones (Knuth, The Art of
/// Computer Programming, volume 3, section 6.4).
#[derive(Debug, Clone, Copy, Default)]
pub struct Multiply(u64);

impl Hasher for Multiply {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
