//! Contexts that get narrower in idle time by how much their chunks are attended to: what is read of them costs no more than is
//! said, takes the share of room that is asked for, and exact calls never notice.

use interleaf_runtime::{BackendChoice, Engine, EngineOptions, MassSampling, PageElement, WidthOptions};
use interleaf_tests::tolerance::assert_bits;

use super::lossy::{SHARED, all, answer, divergence, logits, prompt};
use super::support::{demo, options};

/// More than 2 bits cost.
const BUDGET: f32 = 0.05;

/// Nothing but what is allowed holds widths back.
const WIDTHS: WidthOptions =
    WidthOptions { ratio: 0.375, newest: 2, above: 0.0, sampling: MassSampling::ALL };

fn engine(backend: BackendChoice, widths: Option<WidthOptions>) -> Engine {
    let is_cold = widths.is_none();
    let options =
        EngineOptions { widths, prefix_cache: !is_cold, pages: PageElement::F16, ..options(backend) };
    let mut engine = demo(&options);
    engine.reserve_kv(4, 512).expect("a small pool");
    engine
}

fn idle(engine: &mut Engine) {
    while engine.tend(64).expect("it runs") > 0 {}
}

fn bytes_of(engine: &Engine, codec: &str) -> u64 {
    engine.kv_by_codec().into_iter().filter(|(name, _)| name == codec).map(|(_, bytes)| bytes).sum()
}

#[test]
fn idle_contexts_take_their_share_and_lose_no_more_than_is_said() {
    for backend in all() {
        let (mut engine, mut cold) = (engine(backend, Some(WIDTHS)), engine(backend, None));
        let first = prompt(&engine, 0);
        answer(&mut engine, &first, None, BUDGET);
        let eight = bytes_of(&engine, "q8");
        assert!(eight > 0 && bytes_of(&engine, "q4") + bytes_of(&engine, "q2") == 0);
        assert!(bytes_of(&engine, "f16") > 0, "the newest are exact");
        let newest = bytes_of(&engine, "f16");
        idle(&mut engine);
        let [four, two] = ["q4", "q2"].map(|codec| bytes_of(&engine, codec));
        let left = bytes_of(&engine, "q8");
        println!("{backend:?}: of {eight} bytes {left} in 8 bits, {four} in 4, {two} in 2");
        assert!(four > 0 && two > 0, "{four} and {two}");
        assert!(
            (left + four + two) as f64 <= WIDTHS.ratio * eight as f64,
            "{left} + {four} + {two} of {eight}"
        );
        assert_eq!(bytes_of(&engine, "f16"), newest);

        let tokens = prompt(&engine, 5);
        let (sequence, cached) = engine.resume_sequence(None, &tokens, BUDGET).expect("it opens");
        let said = engine.sequence_drift(sequence).expect("open");
        engine.close_sequence(sequence).expect("open");
        assert_eq!(cached, SHARED);
        let (found, cached) = logits(&mut engine, None, &tokens, BUDGET);
        let (exact, none) = logits(&mut cold, None, &tokens, 0.0);
        assert_eq!((cached, none), (SHARED, 0));
        let cost = divergence(&exact, &found, cold.config().vocab_size);
        println!("{backend:?}: {cost:.1e} of {said:.1e}");
        assert!(cost > 0.0 && cost <= f64::from(said) && said <= BUDGET, "{cost}, {said}");
        // Who allows less than was lost computes it.
        let (found, cached) = logits(&mut engine, None, &tokens, 0.0);
        assert_eq!(cached, 0);
        assert_bits("logits", &exact, &found);
    }
}

#[test]
fn what_a_call_allows_is_not_exceeded() {
    let mut engine = engine(BackendChoice::Cpu, Some(WIDTHS));
    // Of 4 bits, and not of 2.
    let budget = 2e-3;
    let tokens = prompt(&engine, 0);
    answer(&mut engine, &tokens, None, budget);
    idle(&mut engine);
    assert!(bytes_of(&engine, "q4") > 0);
    let next = prompt(&engine, 1);
    let next = answer(&mut engine, &next, None, budget);
    assert_eq!(next.reused_tokens, SHARED);
    assert!(next.drift > 0.0 && next.drift <= budget, "{}", next.drift);
}

/// A later turn attends to what was narrowed, and what was newest then is narrowed, too.
#[test]
fn later_turns_go_on_from_narrow_chunks_and_narrow_their_own() {
    let mut engine = engine(BackendChoice::Cpu, Some(WIDTHS));
    // What is computed over what has lost something may lose as much again.
    let budget = 4.0 * BUDGET;
    let tokens = prompt(&engine, 0);
    answer(&mut engine, &tokens, None, budget);
    idle(&mut engine);
    let narrow = |engine: &Engine| bytes_of(engine, "q4") + bytes_of(engine, "q2");
    let before = narrow(&engine);
    let more = [&tokens[..], &tokens[..64]].concat();
    let turn = answer(&mut engine, &more, None, budget);
    assert!(turn.reused_tokens >= SHARED, "{}", turn.reused_tokens);
    idle(&mut engine);
    assert!(narrow(&engine) > before, "{} of {before}", narrow(&engine));
}

#[test]
fn nothing_is_narrowed_without_need_or_for_exact_calls() {
    let roomy = WidthOptions { above: 0.9, ..WIDTHS };
    for (widths, budget) in [(roomy, BUDGET), (WIDTHS, 0.0)] {
        let mut engine = engine(BackendChoice::Cpu, Some(widths));
        let tokens = prompt(&engine, 0);
        answer(&mut engine, &tokens, None, budget);
        assert_eq!(engine.tend(1024).expect("it runs"), 0);
        assert_eq!(bytes_of(&engine, "q4") + bytes_of(&engine, "q2"), 0);
    }
}

/// Measuring changes no bit of an answer.
#[test]
fn answers_are_the_same_whether_attention_is_measured_or_not() {
    for backend in all().into_iter().chain([BackendChoice::Ref]) {
        let (mut measured, mut plain) = (engine(backend, Some(WIDTHS)), engine(backend, None));
        let tokens = prompt(&plain, 3);
        let (found, _) = logits(&mut measured, None, &tokens, 0.0);
        let (exact, _) = logits(&mut plain, None, &tokens, 0.0);
        assert_bits("logits", &exact, &found);
    }
}
