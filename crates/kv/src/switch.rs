//! A context comes back: which of its missing chunks are read and which are recomputed, both at the same time. Costs
//! are the machine's own, measured; nothing is read or computed here.
//!
//! LLMS (Yin et al., arXiv 2403.11805, §3.3): reading and recomputing overlap, so a switch takes the longer of the two,
//! and recomputing costs the same however few bits a chunk has. For any number of recomputed chunks it is therefore best
//! to recompute the heaviest, and trying every number finds the optimum of the paper's linear program.

use std::cmp::Reverse;

/// What a number of something takes, as a straight line; nothing of it takes no time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearCost {
    /// Seconds that any takes.
    pub fixed: f64,
    /// Seconds more for each.
    pub each: f64,
}

impl LinearCost {
    /// Seconds for so many.
    #[must_use]
    pub fn of(self, count: f64) -> f64 {
        if count > 0.0 { self.fixed + self.each * count } else { 0.0 }
    }
}

/// What a machine takes to bring chunks back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwitchCosts {
    /// To recompute chunks, by their number. Loading an adapter that is not resident is part of what any takes.
    pub recompute: LinearCost,
    /// To read them, by their bytes.
    pub read: LinearCost,
    /// What share of the time it must save at least to recompute what could be read: lines are off by something, and a chunk that is
    /// recomputed for little may well cost more than it saves.
    pub least_saved: f64,
}

/// How a context comes back.
#[derive(Debug, Clone, PartialEq)]
pub struct SwitchPlan {
    /// Indices of the chunks that are read, ascending.
    pub read: Vec<usize>,
    /// Indices of those that are recomputed, ascending.
    pub recompute: Vec<usize>,
    /// Seconds that the longer of the two takes.
    pub seconds: f64,
}

/// A chunk that is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is stored in so many bytes, and could be recomputed as well.
    Stored(u64),
    /// It is stored in so many bytes, in a form that a forward pass does not compute.
    Encoded(u64),
    /// It is stored nowhere.
    Lost,
}

impl Missing {
    const fn stored_bytes(self) -> u64 {
        match self {
            Self::Stored(bytes) | Self::Encoded(bytes) => bytes,
            Self::Lost => 0,
        }
    }
}

/// Splits missing chunks so that they are back soonest. Among equals the fewest are recomputed, and no more than must be where that
/// would not save enough.
#[must_use]
pub fn plan_switch(missing: &[Missing], costs: SwitchCosts) -> SwitchPlan {
    let count = |is_so: fn(&Missing) -> bool| missing.iter().filter(|chunk| is_so(chunk)).count();
    let least = count(|chunk| matches!(chunk, Missing::Lost));
    let most = missing.len() - count(|chunk| matches!(chunk, Missing::Encoded(_)));
    // The heaviest first, those before all that cannot be read, and last those that can only be read.
    let mut order: Vec<usize> = (0..missing.len()).collect();
    order.sort_by_key(|&i| match missing[i] {
        Missing::Lost => (0, Reverse(0)),
        Missing::Stored(bytes) => (1, Reverse(bytes)),
        Missing::Encoded(bytes) => (2, Reverse(bytes)),
    });
    // Whole numbers: what is left of rounding must not look like a read.
    let mut bytes: u64 = missing.iter().map(|chunk| chunk.stored_bytes()).sum();
    let mut best = (f64::INFINITY, least);
    let mut enough = f64::INFINITY;
    for count in least..=most {
        let seconds = costs.recompute.of(count as f64).max(costs.read.of(bytes as f64));
        if seconds < best.0.min(enough) {
            best = (seconds, count);
        }
        if count == least {
            enough = (1.0 - costs.least_saved) * seconds;
        }
        // The next one is recomputed too.
        bytes -= order.get(count).map_or(0, |&i| missing[i].stored_bytes());
    }
    let (seconds, count) = best;
    let mut read = order.split_off(count);
    let mut recompute = order;
    read.sort_unstable();
    recompute.sort_unstable();
    SwitchPlan { read, recompute, seconds }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Missing::{Encoded, Lost, Stored};
    use super::*;

    fn costs(recompute: (f64, f64), read: (f64, f64)) -> SwitchCosts {
        let line = |(fixed, each)| LinearCost { fixed, each };
        SwitchCosts { recompute: line(recompute), read: line(read), least_saved: 0.0 }
    }

    /// The best of all ways there are.
    fn brute_force(missing: &[Missing], costs: SwitchCosts) -> f64 {
        let is_possible = |chunk: &Missing, is_recomputed: bool| match chunk {
            Stored(_) => true,
            Encoded(_) => !is_recomputed,
            Lost => is_recomputed,
        };
        let ways = 0_u32..1 << missing.len();
        let possible =
            ways.filter(|way| missing.iter().enumerate().all(|(i, c)| is_possible(c, way & (1 << i) != 0)));
        let seconds = possible.map(|way| {
            let read = missing.iter().enumerate().filter(|(i, _)| way & (1 << i) == 0);
            let bytes: u64 = read.map(|(_, chunk)| chunk.stored_bytes()).sum();
            costs.recompute.of(f64::from(way.count_ones())).max(costs.read.of(bytes as f64))
        });
        seconds.fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_heaviest_are_recomputed_while_the_rest_is_read() {
        // A chunk is recomputed in 2 s, and a hundred bytes are read in as long.
        let costs = costs((0.0, 2.0), (0.0, 0.02));
        let plan = plan_switch(&[Stored(100), Stored(400), Stored(200), Stored(100)], costs);
        assert_eq!((plan.recompute, plan.read), (vec![1, 2], vec![0, 3]));
        assert_eq!(plan.seconds, 4.0);
    }

    #[test]
    fn nothing_missing_takes_no_time_and_what_is_not_stored_is_recomputed() {
        let costs = costs((1.0, 1.0), (5.0, 1.0));
        assert_eq!(plan_switch(&[], costs).seconds, 0.0);
        let plan = plan_switch(&[Stored(1), Lost], costs);
        assert_eq!((plan.recompute, plan.seconds), (vec![0, 1], 3.0));
    }

    #[test]
    fn what_is_encoded_is_read_however_long_that_takes() {
        let costs = costs((0.0, 1.0), (0.0, 1.0));
        let plan = plan_switch(&[Stored(2), Encoded(9), Lost], costs);
        assert_eq!((plan.read, plan.recompute, plan.seconds), (vec![1], vec![0, 2], 9.0));
    }

    #[test]
    fn what_saves_too_little_is_read() {
        // Ten are read in 10 s; one is recomputed in 8.5 s, each more in half a second: that saves a tenth at best.
        let costs = SwitchCosts { least_saved: 0.15, ..costs((0.0, 1.0), (0.0, 1.0)) };
        let slow = SwitchCosts { recompute: LinearCost { fixed: 8.0, each: 0.5 }, ..costs };
        assert_eq!(plan_switch(&[Stored(1); 10], slow).recompute, []);
        assert_eq!(plan_switch(&[Stored(1); 10], costs).recompute.len(), 5);
        let lost = [&[Lost][..], &[Stored(1); 10]].concat();
        assert_eq!(plan_switch(&lost, slow).recompute, [0], "what must be is");
    }

    fn missing() -> impl Strategy<Value = Missing> {
        let bytes = 0_u64..5000;
        prop_oneof![
            5 => bytes.clone().prop_map(Stored),
            2 => bytes.prop_map(Encoded),
            2 => Just(Lost),
        ]
    }

    proptest! {
        #[test]
        fn no_way_is_better(
            missing in prop::collection::vec(missing(), 0..10),
            recompute in (0.0..5.0_f64, 0.0..5.0_f64),
            read in (0.0..5.0_f64, 0.0..0.01_f64),
        ) {
            let costs = costs(recompute, read);
            let plan = plan_switch(&missing, costs);
            let best = brute_force(&missing, costs);
            prop_assert!((plan.seconds - best).abs() <= 1e-9 * best.max(1.0), "{plan:?}, best {best}");
            let mut all = [plan.read, plan.recompute].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..missing.len()).collect::<Vec<_>>());
        }
    }
}
