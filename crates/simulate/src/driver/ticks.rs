//! When the cache is told that time passes: every 100 ms, but not while nothing can come of it, since a workload of days
//! has millions of such moments.

/// Seconds between two ticks (ELORA, section 4.2).
const PERIOD: f64 = 0.1;

/// Ticks without anything to do after which the next ones are left out. Until then what is ranked anew in parts has been
/// ranked, and what was passed over in reading ahead has had its turn.
const QUIET: u32 = 13;

/// The ticks of a run.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// The number of the next tick, `None` while they are left out.
    next: Option<u64>,
    /// Ticks in a row in which nothing was moved, since something last happened.
    quiet: u32,
}

fn at(number: u64) -> f64 {
    number as f64 * PERIOD
}

impl Ticks {
    /// When the next tick is.
    pub fn next(&self) -> Option<f64> {
        self.next.map(at)
    }

    /// Something happens. Where ticks were left out, returns when the last of these would have been: it stands for all,
    /// so that the next one finds no more than 100 ms passed.
    pub fn wake(&mut self, now: f64) -> Option<f64> {
        self.quiet = 0;
        if self.next.is_some() {
            return None;
        }
        let mut last = (now / PERIOD) as u64;
        while at(last) > now {
            last -= 1;
        }
        self.next = Some(last + 1);
        Some(at(last))
    }

    /// The next tick has been, and something was moved or not.
    pub fn passed(&mut self, has_moved: bool) {
        self.quiet = if has_moved { 0 } else { self.quiet + 1 };
        self.next = self.next.map(|number| number + 1).filter(|_| self.quiet < QUIET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_rest_until_something_happens_and_stand_on_their_grid() {
        let mut ticks = Ticks::default();
        assert_eq!(ticks.next(), None);
        assert_eq!(ticks.wake(7.26), Some(7.2));
        assert_eq!(ticks.next(), Some(at(73)));
        assert_eq!(ticks.wake(7.28), None);
        ticks.passed(true);
        (0..QUIET).for_each(|_| ticks.passed(false));
        assert_eq!(ticks.next(), None);
        assert_eq!(ticks.wake(250_000.0), Some(250_000.0));
        assert_eq!(ticks.next(), Some(at(2_500_001)));
    }
}
