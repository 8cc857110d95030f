//! The factors that the next layer shrinks with, fetched while this layer's base products keep the arithmetic busy
//! and leave memory idle.
//!
//! Each worker fetches what it will itself shrink, a few cache lines every few blocks of weights: in bursts they would
//! only queue up before the weights themselves.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;

use interleaf_contract::Matrix;

use super::{overlap, shrink::Shrink};
use crate::isa::Isa;
use crate::lines::LINE;
use crate::region::Worker;

/// What one worker fetches for the next layer.
pub struct Ahead<'a> {
    shrinks: &'a [Shrink<'a>],
    /// The worker's rows of all factors A, as `shrink` counts them.
    mine: Range<usize>,
    /// The factor at hand, the number of rows before it, and what of it is still to be fetched.
    at: usize,
    before: usize,
    rest: Range<usize>,
    /// Lines for every `steps` steps, and what has added up to less than one.
    lines: usize,
    steps: usize,
    credit: usize,
}

impl<'a> Ahead<'a> {
    /// What `worker` shrinks with in the next layer, to be spread over so many steps of this one.
    pub fn new(next: &'a [Shrink<'a>], worker: &Worker<'_>, steps: usize) -> Self {
        let mine = worker.range(next.iter().map(|s| s.a.rows()).sum());
        let bytes: usize = next.iter().map(|s| bytes_per_row(s.a)).max().unwrap_or(0) * mine.len();
        Self {
            shrinks: next,
            mine,
            at: 0,
            before: 0,
            rest: 0..0,
            lines: bytes.div_ceil(LINE),
            steps: steps.max(1),
            credit: 0,
        }
    }

    /// One step: asks for the lines that are due.
    ///
    /// # Safety
    /// The machine has the tier.
    #[inline(always)]
    pub unsafe fn step<I: Isa>(&mut self) {
        self.credit += self.lines;
        while self.credit >= self.steps {
            self.credit -= self.steps;
            if self.rest.is_empty() && !self.advance() {
                self.lines = 0;
                self.credit = 0;
                return;
            }
            I::prefetch_far(self.rest.start as *const u8);
            self.rest.start += LINE;
        }
    }

    /// Goes on to the next factor of which the worker has rows; false at the end.
    #[cold]
    fn advance(&mut self) -> bool {
        while let Some(shrink) = self.shrinks.get(self.at) {
            let rows = shrink.a.rows();
            let part = overlap(&self.mine, self.before..self.before + rows);
            self.at += 1;
            self.before += rows;
            if !part.is_empty() {
                let (first, bytes) = (shrink.a.data().as_ptr() as usize, bytes_per_row(shrink.a));
                self.rest = first + part.start * bytes..first + part.end * bytes;
                return true;
            }
        }
        false
    }
}

fn bytes_per_row(a: &Matrix) -> usize {
    a.data().len() / a.rows().max(1)
}
