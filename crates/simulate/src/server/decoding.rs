//! Answers that are generated together. All advance by the same steps, so one count of steps serves all, and each ends at a
//! count that is known when it joins.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::line::Rank;
use crate::machine::DecodeCost;

/// An answer, until it ends.
#[derive(Debug)]
struct Row {
    /// The count of steps at which it ends.
    end: f64,
    rank: Rank,
    slot: usize,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    /// The soonest is the greatest, as a heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        other.end.total_cmp(&self.end).then(other.rank.cmp(&self.rank))
    }
}

/// Answers under way.
#[derive(Debug, Default)]
pub(super) struct Decoding {
    /// Steps since there were no answers, parts of steps among them.
    steps: f64,
    rows: BinaryHeap<Row>,
}

impl Decoding {
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// An answer of so many further tokens.
    pub fn join(&mut self, tokens: u32, rank: Rank, slot: usize) {
        if self.rows.is_empty() {
            self.steps = 0.0;
        }
        self.rows.push(Row { end: self.steps + f64::from(tokens), rank, slot });
    }

    /// When the next answer ends, if nothing changes.
    pub fn end(&self, now: f64, cost: DecodeCost) -> Option<f64> {
        self.rows.peek().map(|row| now + (row.end - self.steps).max(0.0) * cost.seconds(self.rows.len()))
    }

    /// Goes on for a time in which no answer ends.
    pub fn advance(&mut self, seconds: f64, cost: DecodeCost) {
        let step = cost.seconds(self.rows.len());
        if step > 0.0 {
            self.steps += seconds / step;
        }
    }

    /// Ends the next answer. What its end was computed by is not rounded away: the count is where it ends.
    pub fn finish(&mut self) -> Option<usize> {
        let row = self.rows.pop()?;
        self.steps = row.end;
        Some(row.slot)
    }
}
