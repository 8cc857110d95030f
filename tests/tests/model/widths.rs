//! Contexts that get narrower in idle time by how much their chunks are attended to: what is read of them costs no more than is
//! said, takes the share of room that is asked for, and exact calls never notice.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_demo_model as demo_model;
use interleaf_kv::KvError;
use interleaf_runtime::{
    BackendChoice, Engine, EngineError, EngineOptions, Feed, MassSampling, PageElement, RowKind, Source,
    Want, WidthOptions,
};
use interleaf_tests::tolerance::assert_bits;

use super::lossy::{SHARED, all, answer, divergence, logits, prompt};
use super::support::{demo, options};

/// Four times what 2 bits cost, and more.
const BUDGET: f32 = 0.1;

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
    // A quarter of it is for 4 bits, and not for 2.
    let budget = 6e-3;
    let tokens = prompt(&engine, 0);
    answer(&mut engine, &tokens, None, budget);
    idle(&mut engine);
    assert!(bytes_of(&engine, "q4") > 0 && bytes_of(&engine, "q2") == 0);
    let next = prompt(&engine, 1);
    let next = answer(&mut engine, &next, None, budget);
    assert_eq!(next.reused_tokens, SHARED);
    assert!(next.drift > 0.0 && next.drift <= budget, "{}", next.drift);
}

/// Later turns are computed over what was narrowed, and take less room each than without.
#[test]
fn conversations_take_less_from_turn_to_turn() {
    let all = prompt(&engine(BackendChoice::Cpu, None), 0).repeat(2);
    for budget in [BUDGET, 6e-3] {
        let held = |widths: Option<WidthOptions>| -> Vec<u64> {
            let options = EngineOptions { widths, pages: PageElement::F16, ..options(BackendChoice::Cpu) };
            let mut engine = demo(&options);
            engine.reserve_kv(2, 512).expect("a small pool");
            let turns = (1..=5).map(|turn| {
                let answer = answer(&mut engine, &all[..80 * turn], None, budget);
                assert!(answer.drift <= budget && answer.reused_tokens >= 80 * (turn - 1));
                idle(&mut engine);
                engine.memory().kv_cached
            });
            turns.collect()
        };
        let (narrow, wide) = (held(Some(WIDTHS)), held(None));
        println!("{budget}: {narrow:?} and {wide:?}");
        assert!(narrow.iter().zip(&wide).skip(1).all(|(narrow, wide)| narrow < wide), "{narrow:?}, {wide:?}");
    }
}

/// What the manager keeps is what steps say, whatever pieces a text comes in, generated tokens among them.
#[test]
fn densities_are_those_of_the_steps() {
    for backend in all().into_iter().chain([BackendChoice::Ref]) {
        let mut engine = engine(backend, Some(WIDTHS));
        let tokens = prompt(&engine, 0);
        // Told apart from what others have computed: nothing is found.
        let said = answer(&mut engine, &tokens, None, 0.0);
        let text = [&tokens[..], &said.tokens[..said.tokens.len() - 1]].concat();
        let found = engine.chunk_densities(None, &text, 0.0).expect("known");
        // Once more, row by row.
        engine.measure_mass(Some(MassSampling::ALL)).expect("lawful");
        let sequence = engine.open_sequence(None, &text).expect("room");
        let chunks = text.len() / CHUNK_TOKENS;
        let (mut mass, mut pairs) = (vec![0.0; chunks], vec![0.0; chunks]);
        for (position, token) in text.chunks(1).enumerate() {
            let kind = if position < tokens.len() { RowKind::Prompt } else { RowKind::Generated };
            let feed = Feed { sequence, tokens: token, kind, want: Want::Nothing };
            let fed = engine.feed(&[feed]).expect("it runs").remove(0);
            for (chunk, (mass, pairs)) in mass.iter_mut().zip(&mut pairs).enumerate() {
                *mass += f64::from(fed.mass.get(chunk).copied().unwrap_or(0.0));
                *pairs += (position + 1).saturating_sub(chunk * CHUNK_TOKENS).min(CHUNK_TOKENS) as f64;
            }
        }
        engine.close_sequence(sequence).expect("open");
        assert!(found.len() >= chunks && chunks > 12);
        for ((found, mass), pairs) in found.iter().zip(mass).zip(pairs) {
            let (found, expected) = (found.expect("measured"), mass / pairs);
            assert!((found - expected).abs() <= 1e-3 * expected, "{backend:?}: {found} and {expected}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_at_once() {
    let open = |widths: WidthOptions| {
        let options = EngineOptions { widths: Some(widths), ..options(BackendChoice::Cpu) };
        let base = Source::Embedded { name: demo_model::NAME, files: demo_model::BASE };
        Engine::open(base, &options, &mut |_| ())
    };
    let refused = open(WidthOptions { ratio: 0.2, ..WIDTHS });
    assert!(matches!(refused, Err(EngineError::Kv(KvError::Widths(_)))), "{refused:?}");
    for wrong in [
        WidthOptions { ratio: f64::NAN, ..WIDTHS },
        WidthOptions { above: 1.5, ..WIDTHS },
        WidthOptions { newest: 1, ..WIDTHS },
        WidthOptions { sampling: MassSampling { layers: 0, heads: 1 }, ..WIDTHS },
    ] {
        assert!(matches!(open(wrong), Err(EngineError::InvalidOption { .. })), "{wrong:?}");
    }
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
