//! A page's lines that are read soon, fetched one after another while a present page is worked on. Exact pages have more
//! lines than a core can wait for at once: asked for together, what is worked on would wait with them. A third of a row's time
//! over f16 pages went so.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use crate::isa::Isa;
use crate::lines::LINE;

/// What is still to be fetched of a page.
#[derive(Debug, Default, Clone, Copy)]
pub struct Ahead {
    /// Addresses, from one of a line on.
    next: usize,
    end: usize,
    /// Lines for each step.
    each: usize,
}

impl Ahead {
    /// Fetches bytes at once.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn fetch<I: Isa>(bytes: &[u8]) {
        let mut all = Self::of(bytes);
        all.each = usize::MAX;
        all.step::<I>();
    }

    /// Fetches bytes a few lines at each step from now on, and what was left of others at once.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn begin<I: Isa>(&mut self, bytes: &[u8]) {
        self.each = usize::MAX;
        self.step::<I>();
        *self = Self::of(bytes);
    }

    /// So many steps follow.
    #[inline(always)]
    pub fn spread(&mut self, steps: usize) {
        self.each = (self.end - self.next).div_ceil(LINE).div_ceil(steps);
    }

    /// One of them.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn step<I: Isa>(&mut self) {
        let lines = (self.end - self.next).div_ceil(LINE).min(self.each);
        for line in 0..lines {
            I::prefetch(std::ptr::without_provenance(self.next + line * LINE));
        }
        self.next = self.end.min(self.next + lines * LINE);
    }

    fn of(bytes: &[u8]) -> Self {
        // Pages begin on no line of their own: the last byte may be on one more.
        let first = bytes.as_ptr().addr();
        Self { next: first / LINE * LINE, end: first + bytes.len(), each: 0 }
    }
}
