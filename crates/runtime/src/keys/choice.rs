//! Whether it pays to decode keys once.

use std::time::Duration;

/// Tokens from which on it is looked what reading keys takes: the look itself takes as long as a few dozen steps' attention.
pub const LEAST_STEPS: usize = 32;

/// What is saved at most has to be so many times what it costs: a call may end before its last token, and what it has taken
/// of free room may be wanted back.
const MARGIN: f64 = 1.5;

/// The part of a step's attention that has to be saved at least: by less two looks at the same thing may differ.
const NOISE: f64 = 0.05;

/// What was measured of some chunks with encoded keys, the least of several looks each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTimes {
    /// How many chunks' keys were materialised.
    pub chunks: usize,
    /// The attention of one generated token in all layers over the whole context, these chunks' keys being read where they are.
    pub in_place: Duration,
    /// The same with their keys materialised.
    pub materialised: Duration,
    /// To materialise them.
    pub making: Duration,
}

/// Whether materialising keys saves more than it costs a call that goes on for so many steps at most. What a step saves and what
/// is made both grow with the pages, so that what was measured of some says the same of about as many in the same codecs, that
/// one row reads. It says nothing of rows that share an anchor and would not any more: keys that these share are left where they
/// are ([`KeySet::Apart`](interleaf_kv::KeySet::Apart)).
pub fn pays(times: &KeyTimes, steps: usize) -> bool {
    let [in_place, materialised, making] =
        [times.in_place, times.materialised, times.making].map(|time| time.as_secs_f64());
    let saved = in_place - materialised;
    saved > NOISE * in_place && saved * steps as f64 > MARGIN * making
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(in_place: u64, materialised: u64, making: u64) -> KeyTimes {
        let [in_place, materialised, making] = [in_place, materialised, making].map(Duration::from_micros);
        KeyTimes { chunks: 8, in_place, materialised, making }
    }

    #[test]
    fn it_pays_from_as_many_steps_on_as_bring_in_the_cost_and_the_margin() {
        // 40 µs a step are saved, and 1200 and the margin are 1800.
        let times = times(100, 60, 1200);
        assert_eq!([0, 44, 46, 1000].map(|steps| pays(&times, steps)), [false, false, true, true]);
    }

    #[test]
    fn what_takes_as_long_or_longer_never_pays() {
        for materialised in [100, 130] {
            assert!(!pays(&times(100, materialised, 0), usize::MAX));
        }
        assert!(!pays(&times(0, 0, 0), usize::MAX));
    }

    #[test]
    fn a_difference_that_may_be_noise_never_pays() {
        assert!(!pays(&times(100, 95, 0), usize::MAX));
        assert!(pays(&times(100, 94, 0), 1));
        assert!(!pays(&times(100, 94, 0), 0));
    }
}
