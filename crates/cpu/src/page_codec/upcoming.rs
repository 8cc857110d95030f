//! A page's lines that are read soon, fetched one after another while a present page is worked on. Exact pages have more
//! lines than a core can wait for at once: asked for together, what is worked on would wait with them. A sixth of a row's time
//! over f16 pages went so.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use crate::isa::Isa;
use crate::lines::LINE;

/// What is still to be fetched of a page: addresses, from one of a line on.
#[derive(Debug, Default, Clone, Copy)]
pub struct Upcoming {
    next: usize,
    end: usize,
}

impl Upcoming {
    /// Fetches bytes at once.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn fetch<I: Isa>(bytes: &[u8]) {
        Self::of(bytes).rest::<I>();
    }

    /// Fetches bytes a line at each step from now on, and what was left of others at once.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn begin<I: Isa>(&mut self, bytes: &[u8]) {
        self.rest::<I>();
        *self = Self::of(bytes);
    }

    /// Fetches the next line, if there is one.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn step<I: Isa>(&mut self) {
        if self.next < self.end {
            I::prefetch(std::ptr::without_provenance(self.next));
            self.next += LINE;
        }
    }

    #[inline(always)]
    unsafe fn rest<I: Isa>(&mut self) {
        while self.next < self.end {
            self.step::<I>();
        }
    }

    #[inline(always)]
    fn of(bytes: &[u8]) -> Self {
        // Pages begin on no line of their own: the last byte may be on one more.
        let first = bytes.as_ptr().addr();
        Self { next: if bytes.is_empty() { first } else { first / LINE * LINE }, end: first + bytes.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Scalar;

    #[test]
    fn every_line_of_some_bytes_is_fetched_once() {
        let memory = [0u8; 512];
        for (first, len) in (0..70).flat_map(|first| [0, 1, 2, 63, 64, 65, 200, 256].map(|len| (first, len)))
        {
            let bytes = &memory[first..first + len];
            let mut upcoming = Upcoming::of(bytes);
            let mut lines = Vec::new();
            while upcoming.next < upcoming.end {
                lines.push(upcoming.next);
                // SAFETY: every machine has the scalar tier.
                unsafe { upcoming.step::<Scalar>() };
            }
            let mut expected: Vec<usize> =
                bytes.iter().map(|byte| std::ptr::from_ref(byte).addr() / LINE * LINE).collect();
            expected.dedup();
            assert_eq!(lines, expected, "{len} bytes from {first} on");
        }
    }
}
