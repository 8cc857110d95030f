//! The free slots of a pool. Knows nothing of sequences.

/// A free list over `0 .. capacity`: the slot freed last is handed out first, while it may still be in
/// a cache.
#[derive(Debug, Clone)]
pub struct Slots {
    free: Vec<u32>,
    capacity: usize,
}

impl Slots {
    /// All slots free.
    pub fn new(capacity: u32) -> Self {
        Self { free: (0..capacity).rev().collect(), capacity: capacity as usize }
    }

    /// Slots not handed out.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Slots handed out.
    pub fn used(&self) -> usize {
        self.capacity - self.free.len()
    }

    /// All slots.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Hands out `count` slots, or none if there are not so many.
    pub fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        let rest = self.free.len().checked_sub(count)?;
        let mut taken = self.free.split_off(rest);
        taken.reverse();
        Some(taken)
    }

    /// Takes slots back.
    pub fn give_back(&mut self, slots: impl IntoIterator<Item = u32>) {
        self.free.extend(slots);
    }
}
