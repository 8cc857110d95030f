//! Which of the things that may go is missed least: policies as values, so that the engine, tests and the simulator run the
//! same ones. A policy ranks; what may go at all, leaves that nobody uses, is not decided here.
//!
//! Every published formula and constant is in the module of its name, with its source.

mod combined;
mod elora;
mod lctru;
mod lru;
mod mobilora;

use std::cmp::Ordering;

pub use combined::Combined;
pub use elora::{Elora, expected_adapters};
pub use mobilora::MobiLora;

/// Seconds after which a use counts half: about as long as an app is stayed with. Ours; ELORA's visits are counted for ever,
/// so that what was popular once outweighs what is in use.
pub const HALF_LIFE: f64 = 600.0;

/// What an app is to its user, as systems tell it. Killed apps keep what is on flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AppState {
    /// Gone.
    Killed,
    /// In the background, and the next to be ended.
    Cached,
    /// In the background.
    Background,
    /// Seen, and not in use.
    Visible,
    /// In use.
    Foreground,
}

/// What may go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Whether it is an adapter's weights; else K and V.
    pub is_adapter: bool,
    /// Bytes that its going frees.
    pub bytes: u64,
    /// Bits of an element of K and V.
    pub bits: u32,
    /// Tokens of the context that it is part of; 0 for an adapter.
    pub context_tokens: u32,
    /// How often it was used.
    pub visits: f64,
    /// The same, uses counting the less the longer before the last one they were ([`HALF_LIFE`]).
    pub lately: f64,
    /// Seconds since it was last used.
    pub idle_seconds: f64,
    /// Requests since it was last used.
    pub idle_requests: u64,
    /// The app that it belongs to; of several the one nearest to the user.
    pub app: AppState,
    /// Seconds that bringing it back by reading takes.
    pub read_seconds: f64,
    /// Seconds that recomputing it takes; infinite for an adapter.
    pub recompute_seconds: f64,
}

/// What is the same for all candidates of a decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Situation {
    /// Seconds on the clock that candidates' idleness is counted by.
    pub now: f64,
    /// Adapters in memory.
    pub adapters: u32,
    /// Adapters that a batch is expected to need ([`expected_adapters`]).
    pub expected_adapters: f64,
    /// Tokens of the longest context that there may be.
    pub longest_context: u32,
}

/// How much something is worth keeping: what has the lowest goes first. Of equals in the first number the second decides.
///
/// Worths of different moments can be compared as far as that is possible: what time takes from all alike is left out, so
/// that a queue of them need not be made anew as it passes. Only MobiLoRA's age in requests and what ELORA's sigmoid is off
/// its asymptote within the first units of time change in a queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Worth(pub f64, pub f64);

impl Eq for Worth {}

impl PartialOrd for Worth {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Worth {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.total_cmp(&other.1))
    }
}

/// A policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Policy {
    /// The longest unused first.
    Lru,
    /// LLMS: the widest first, of one width the longest unused.
    Lctru,
    /// MobiLoRA: the least useful by its app's state, its recency and its context's length.
    MobiLora(MobiLora),
    /// ELORA: the least expected cost of having to bring it back.
    Elora(Elora),
    /// ELORA's cost by the cheaper way back, per byte, by the app's state.
    Combined(Combined),
}

impl Candidate {
    /// When it was last used.
    fn last_use(&self, situation: &Situation) -> f64 {
        situation.now - self.idle_seconds
    }
}

impl Policy {
    /// Every policy with its published constants, by name.
    #[must_use]
    pub fn all() -> [(&'static str, Self); 5] {
        [
            ("lru", Self::Lru),
            ("lctru", Self::Lctru),
            ("mobilora", Self::MobiLora(MobiLora::default())),
            ("elora", Self::Elora(Elora::default())),
            ("combined", Self::Combined(Combined::default())),
        ]
    }

    /// Whether a worth stays what it is until its candidate is used again.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        matches!(self, Self::Lru | Self::Lctru)
    }

    /// Whether it goes by how many adapters a batch is expected to need.
    #[must_use]
    pub const fn expects_adapters(&self) -> bool {
        match self {
            Self::Lru | Self::Lctru | Self::MobiLora(_) => false,
            Self::Elora(elora) | Self::Combined(Combined { elora, .. }) => elora.adapters,
        }
    }

    /// How much a candidate is worth keeping.
    #[must_use]
    pub fn worth(&self, candidate: &Candidate, situation: &Situation) -> Worth {
        match self {
            Self::Lru => lru::worth(candidate, situation),
            Self::Lctru => lctru::worth(candidate, situation),
            Self::MobiLora(policy) => policy.worth(candidate, situation),
            Self::Elora(policy) => policy.worth(candidate, situation),
            Self::Combined(policy) => policy.worth(candidate, situation),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A page of 16 tokens of a context in use.
    pub(crate) fn page() -> Candidate {
        Candidate {
            is_adapter: false,
            bytes: 16 << 10,
            bits: 16,
            context_tokens: 1024,
            visits: 3.0,
            lately: 3.0,
            idle_seconds: 10.0,
            idle_requests: 4,
            app: AppState::Foreground,
            read_seconds: 1e-4,
            recompute_seconds: 5e-4,
        }
    }

    pub(crate) fn situation() -> Situation {
        Situation { now: 1e6, adapters: 4, expected_adapters: 2.0, longest_context: 4096 }
    }

    /// Whether every policy but those named keeps `better` rather than `worse`.
    fn all_prefer(better: Candidate, worse: Candidate, but: &[&str]) {
        for (name, policy) in Policy::all() {
            let [better, worse] = [better, worse].map(|c| policy.worth(&c, &situation()));
            assert!(but.contains(&name) || better > worse, "{name}: {better:?} and {worse:?}");
        }
    }

    #[test]
    fn what_was_used_lately_stays() {
        all_prefer(page(), Candidate { idle_seconds: 20.0, idle_requests: 9, ..page() }, &[]);
    }

    #[test]
    fn each_policy_sees_what_it_is_for() {
        let others = |names: [&'static str; 3]| names;
        let killed = Candidate { app: AppState::Killed, ..page() };
        all_prefer(page(), killed, &others(["lru", "lctru", "elora"]));
        let rare = Candidate { visits: 1.0, lately: 1.0, ..page() };
        all_prefer(page(), rare, &others(["lru", "lctru", "mobilora"]));
        // Of one width and use, what is narrower stays: the same tokens in fewer bytes.
        let narrow = Candidate { bits: 4, bytes: 4 << 10, ..page() };
        all_prefer(narrow, page(), &others(["lru", "mobilora", "elora"]));
    }

    #[test]
    fn worths_have_an_order_whatever_they_are() {
        let mut worths =
            [Worth(f64::INFINITY, 0.0), Worth(1.0, 2.0), Worth(f64::NEG_INFINITY, 0.0), Worth(1.0, 1.0)];
        worths.sort_unstable();
        assert_eq!(worths.map(|w| w.1), [0.0, 1.0, 2.0, 0.0]);
    }
}
