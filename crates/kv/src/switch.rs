//! A context comes back: which of its missing chunks are read and which are recomputed, both at the same time. Costs
//! are the machine's own, measured; nothing is read or computed here.
//!
//! LLMS (Yin et al., arXiv 2403.11805, §3.3): reading and recomputing overlap, so a switch takes the longer of the two,
//! and recomputing costs the same however few bits a chunk has. For any number of recomputed chunks it is therefore best
//! to recompute the heaviest, and trying every number finds the optimum of the paper's linear program.

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

/// Splits missing chunks so that they are back soonest. `stored` has the bytes that each has in the store, `None` for one
/// that is not there and can only be recomputed. Among equals the fewest are recomputed.
#[must_use]
pub fn plan_switch(stored: &[Option<u64>], costs: SwitchCosts) -> SwitchPlan {
    // The heaviest first, and those before all that cannot be read.
    let mut order: Vec<usize> = (0..stored.len()).collect();
    order.sort_by_key(|&i| (stored[i].is_some(), std::cmp::Reverse(stored[i])));
    let least = stored.iter().filter(|bytes| bytes.is_none()).count();
    let mut bytes: f64 = stored.iter().flatten().map(|bytes| *bytes as f64).sum();
    let mut best = (f64::INFINITY, least);
    for count in least..=stored.len() {
        let seconds = costs.recompute.of(count as f64).max(costs.read.of(bytes));
        if seconds < best.0 {
            best = (seconds, count);
        }
        // The next one is recomputed too. What is left of rounding when all are must not look like a read.
        let next = order.get(count).and_then(|&i| stored[i]);
        bytes = if count + 1 >= stored.len() { 0.0 } else { bytes - next.unwrap_or_default() as f64 };
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

    use super::*;

    fn costs(recompute: (f64, f64), read: (f64, f64)) -> SwitchCosts {
        let line = |(fixed, each)| LinearCost { fixed, each };
        SwitchCosts { recompute: line(recompute), read: line(read) }
    }

    /// The best of all ways there are.
    fn brute_force(stored: &[Option<u64>], costs: SwitchCosts) -> f64 {
        let ways = 0_u32..1 << stored.len();
        let possible = ways
            .filter(|way| stored.iter().enumerate().all(|(i, bytes)| bytes.is_some() || way & (1 << i) != 0));
        let seconds = possible.map(|way| {
            let read = stored.iter().enumerate().filter(|(i, _)| way & (1 << i) == 0);
            let bytes: u64 = read.filter_map(|(_, bytes)| *bytes).sum();
            costs.recompute.of(f64::from(way.count_ones())).max(costs.read.of(bytes as f64))
        });
        seconds.fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_heaviest_are_recomputed_while_the_rest_is_read() {
        // A chunk is recomputed in 2 s, and a hundred bytes are read in as long.
        let costs = costs((0.0, 2.0), (0.0, 0.02));
        let plan = plan_switch(&[Some(100), Some(400), Some(200), Some(100)], costs);
        assert_eq!((plan.recompute, plan.read), (vec![1, 2], vec![0, 3]));
        assert_eq!(plan.seconds, 4.0);
    }

    #[test]
    fn nothing_missing_takes_no_time_and_what_is_not_stored_is_recomputed() {
        let costs = costs((1.0, 1.0), (5.0, 1.0));
        assert_eq!(plan_switch(&[], costs).seconds, 0.0);
        let plan = plan_switch(&[Some(1), None], costs);
        assert_eq!((plan.recompute, plan.seconds), (vec![0, 1], 3.0));
    }

    proptest! {
        #[test]
        fn no_way_is_better(
            stored in prop::collection::vec(prop::option::weighted(0.8, 0_u64..5000), 0..10),
            recompute in (0.0..5.0_f64, 0.0..5.0_f64),
            read in (0.0..5.0_f64, 0.0..0.01_f64),
        ) {
            let costs = costs(recompute, read);
            let plan = plan_switch(&stored, costs);
            let best = brute_force(&stored, costs);
            prop_assert!((plan.seconds - best).abs() <= 1e-9 * best.max(1.0), "{plan:?}, best {best}");
            let mut all = [plan.read, plan.recompute].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..stored.len()).collect::<Vec<_>>());
        }
    }
}
