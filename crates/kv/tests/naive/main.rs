//! The manager beside a model that shares nothing: a device of words, on which every page's contents say what they were
//! computed from. Whatever comes in whatever order, and however moves end, what a sequence reads is what it would have
//! computed itself, what can be used again is what was computed before, and nothing is lost.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod events;
mod streams;
mod world;

use proptest::prelude::*;

use self::events::event;
use self::world::{Event, Setup, World};

fn run(setup: Setup, events: &[Event]) -> Result<(), TestCaseError> {
    let mut world = World::new(setup);
    for event in events {
        world.apply(event).map_err(|e| TestCaseError::fail(format!("{event:?}: {e}")))?;
    }
    world.release_everything().map_err(|e| TestCaseError::fail(format!("at the end: {e}")))
}

fn setup() -> impl Strategy<Value = Setup> {
    let chunks = prop_oneof![Just(200_u32), 6_u32..40];
    // What is above no other tier can be at rest.
    let lower = (prop::option::weighted(0.4, 1_u32..16), prop::option::weighted(0.4, 1_u32..60));
    (chunks, lower, 0_usize..5, 0_usize..4, any::<bool>(), any::<bool>()).prop_map(
        |(chunks, (host, flash), policy, costs, can_recompute, has_forms)| Setup {
            chunks,
            host,
            flash,
            policy,
            costs,
            can_recompute,
            has_forms,
        },
    )
}

/// How many sequences of events; `INTERLEAF_KV_CASES` for more than the few that every run takes.
fn cases() -> u32 {
    std::env::var("INTERLEAF_KV_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_sequences_read_what_they_would_have_computed(
        setup in setup(),
        events in prop::collection::vec(event(), 1..120),
    ) {
        run(setup, &events)?;
    }
}
