//! Who is next: lines by urgency and arrival, and what does one thing at a time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A place in all lines: the least is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Rank {
    pub urgency: u8,
    pub arrival: u64,
}

/// Orders by rank, the least as the greatest, as a heap wants it.
macro_rules! first_by_rank {
    ($name:ident) => {
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other) == Ordering::Equal
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                other.rank.cmp(&self.rank)
            }
        }
    };
}

/// A request that waits for a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub rank: Rank,
    pub request: u64,
    pub context: u32,
}

first_by_rank!(Waiting);

/// What is done for a request, or in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Load,
    Read,
    Recompute,
    Prefill,
    /// By the number it was given under.
    Background(u64),
}

/// Work that waits, or is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub rank: Rank,
    /// Whose it is; in the background it means nothing.
    pub slot: usize,
    pub seconds: f64,
    pub work: Work,
}

first_by_rank!(Job);

/// What does one job at a time, each to its end.
#[derive(Debug, Default)]
pub(super) struct Resource {
    /// What it does, and until when.
    current: Option<(f64, Job)>,
    pub line: BinaryHeap<Job>,
}

impl Resource {
    /// Begins the next job, if there is one and none is under way.
    pub fn begin(&mut self, now: f64) {
        if self.current.is_none() {
            self.current = self.line.pop().map(|job| (now + job.seconds, job));
        }
    }

    /// When what it does ends.
    pub fn end(&self) -> Option<f64> {
        self.current.map(|(end, _)| end)
    }

    /// Ends it.
    pub fn finish(&mut self) -> Option<Job> {
        self.current.take().map(|(_, job)| job)
    }
}
