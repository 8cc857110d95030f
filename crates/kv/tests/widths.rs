//! Contexts at rest in the widths that their chunks' densities are worth.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod small;

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::policy::Policy;
use interleaf_kv::{
    AppId, Form, KvError, Layers, Manager, Op, Open, Over, Source, Tolerance, ToleranceError,
};

use self::small::PAGE;

const LAYERS: usize = 2;
const CHUNKS: usize = 6;

fn forms() -> Vec<Form> {
    let form = |bits, drift| Form {
        layers: Layers::Alike(PAGE * u64::from(bits) / 16),
        bits,
        drift,
        over: Over::Nothing,
        by_density: true,
    };
    // In no order, and with one among them that does not stand alone.
    let eight = Form { by_density: false, ..form(8, 0.001) };
    vec![form(4, 0.02), Form { over: Over::Base, ..form(2, 0.03) }, eight, form(2, 0.2)]
}

const FOUR: Source = Source::Form(0);
const EIGHT: Source = Source::Form(2);
const TWO: Source = Source::Form(3);

fn manager(forms: Vec<Form>, policy: Policy) -> (Manager, AppId) {
    let mut manager = Manager::new(small::config(LAYERS, 32, policy, forms)).expect("lawful");
    let app = manager.open_app(None).expect("the first");
    (manager, app)
}

fn tokens() -> Vec<u32> {
    (0..(CHUNKS * CHUNK_TOKENS) as u32).collect()
}

fn call(app: AppId, tokens: &[u32], budget: f32) -> Open<'_> {
    Open { app, adapter: None, tokens, most: tokens.len(), budget, is_kept: true, now: 0.0 }
}

/// A context of some tokens that was computed exactly, for somebody who allows so much, and whose chunks have some densities as
/// rows behind them saw them.
fn computed(
    manager: &mut Manager,
    app: AppId,
    tokens: &[u32],
    budget: f32,
    now: f64,
    densities: &[f32],
) -> Vec<Op> {
    let opened = manager.open(&Open { now, ..call(app, tokens, budget) }).expect("room");
    let id = opened.sequence;
    let missing = &tokens[manager.tokens(id).expect("open")..];
    manager.append(id, missing.len()).expect("room");
    manager.commit(id, missing, 0.0).expect("room");
    let mass: Vec<f32> = densities.iter().map(|density| density * CHUNK_TOKENS as f32).collect();
    // The last row sees all.
    manager.attended(id, &mass, tokens.len() - 1, 1, None).expect("open");
    manager.close(id, now).expect("open")
}

fn done(manager: &mut Manager, moves: Vec<Op>) {
    for op in moves {
        assert!(manager.done(op.id).is_empty());
        manager.check().expect("sound");
    }
}

fn by_chunk(manager: &Manager, app: AppId, tokens: &[u32]) -> Vec<Source> {
    let sources = manager.sources(&call(app, tokens, 1.0)).expect("known");
    sources.into_iter().map(|layers| layers[0]).collect()
}

/// What somebody who allows everything would lose of a context.
fn drift(manager: &mut Manager, app: AppId, tokens: &[u32]) -> f32 {
    let id = manager.open(&call(app, tokens, 1.0)).expect("room").sequence;
    let drift = manager.drift(id).expect("open");
    manager.close(id, 0.0).expect("open");
    drift
}

const ERRORS: [f64; 3] = [0.005, 0.08, 0.4];
const MOST: usize = 100;

/// A manager with one context of some densities, narrowed.
fn narrowed(budget: f32, densities: &[f32], tolerance: &Tolerance) -> (Manager, AppId, Vec<u32>) {
    let (mut manager, app) = manager(forms(), Policy::Lru);
    let tokens = tokens();
    let moves = computed(&mut manager, app, &tokens, budget, 0.0, densities);
    done(&mut manager, moves);
    let moves = manager.narrow(tolerance, MOST).expect("lawful");
    done(&mut manager, moves);
    (manager, app, tokens)
}

#[test]
fn the_densest_keep_most_bits_within_the_ratio() {
    let densities = [9.0, 0.01, 0.02, 1.0, 0.5, 3.0];
    let tolerance = Tolerance { newest: 1, ..Tolerance::new(ERRORS) };
    // Nothing is lost before it is asked for: for 8 bits alone the call returns before.
    let (manager, app, tokens) = narrowed(1.0, &densities, &tolerance);
    assert_eq!(by_chunk(&manager, app, &tokens), [EIGHT, TWO, TWO, FOUR, FOUR, EIGHT]);
    let known = manager.densities(&call(app, &tokens, 1.0)).expect("known");
    let is_near = |(known, density): (&Option<f64>, &f32)| {
        known.is_some_and(|known| (known - f64::from(*density)).abs() < 1e-6)
    };
    assert!(known.iter().zip(&densities).all(is_near), "{known:?}");
    // Two of eight layers' pages a block, four of two bits', and so on: half of what five take at 8 bits, rounded to blocks,
    // and the newest.
    let pieces = LAYERS as u64 * PAGE * (8 + 4 + 4 + 2 + 2) / 16;
    assert_eq!(pieces, LAYERS as u64 * 5 * PAGE / 4, "a half of 8 bits");
    assert!(manager.held_bytes(0) <= LAYERS as u64 * PAGE * (1 + 1 + 1 + 1 + 1));
}

#[test]
fn a_chunk_that_nobody_measured_stays() {
    let tolerance = Tolerance { ratio: 0.25, ..Tolerance::new(ERRORS) };
    let (manager, app, tokens) = narrowed(1.0, &[1.0, 1.0], &tolerance);
    assert_eq!(by_chunk(&manager, app, &tokens), [TWO, TWO, EIGHT, EIGHT, EIGHT, EIGHT]);
}

#[test]
fn nobody_gets_less_than_he_allows_and_nothing_comes_back() {
    let tolerance = Tolerance::new(ERRORS);
    let even = [1.0; CHUNKS];
    // Exactly computed for somebody who wants it exact: no form is lawful.
    let (manager, app, tokens) = narrowed(0.0, &even, &tolerance);
    assert_eq!(by_chunk(&manager, app, &tokens), [Source::Own; CHUNKS]);
    // Half of it is for that: 4 bits are allowed, and 2 are not.
    let tight = Tolerance { ratio: 0.25, ..tolerance };
    let (mut manager, app, tokens) = narrowed(0.4, &even, &tight);
    let narrow = [FOUR; CHUNKS];
    assert_eq!(by_chunk(&manager, app, &tokens), narrow);
    // 8 bits, and then 4 of these.
    let both = (0.001_f32.sqrt() + 0.02_f32.sqrt()).powi(2);
    let lost = drift(&mut manager, app, &tokens);
    assert!((lost - both).abs() < 1e-6, "{lost} and {both}");
    let wide = Tolerance { ratio: 1.0, ..tolerance };
    assert_eq!(manager.narrow(&wide, MOST), Ok(vec![]));
    assert_eq!(by_chunk(&manager, app, &tokens), narrow);
}

/// What is said holds of any part of a context, whatever it is attended to there.
#[test]
fn a_context_that_is_cut_short_loses_no_more_than_was_said() {
    let densities = [0.01, 0.01, 1.0, 1.0, 1.0, 9.0];
    let (mut manager, app, tokens) = narrowed(1.0, &densities, &Tolerance::new(ERRORS));
    assert_eq!(by_chunk(&manager, app, &tokens), [TWO, TWO, FOUR, FOUR, FOUR, EIGHT]);
    // To whoever reads the first chunks alone they are all there is.
    for (chunks, least) in [(1, 0.2), (2, 0.2), (6, 0.2)] {
        let lost = drift(&mut manager, app, &tokens[..chunks * CHUNK_TOKENS]);
        assert!((least..0.25).contains(&lost), "{chunks} chunks: {lost}");
    }
}

#[test]
fn what_is_found_to_cost_more_than_is_allowed_stays_and_is_not_tried_again() {
    let (mut manager, app) = manager(forms(), Policy::Lru);
    let tokens = tokens();
    let moves = computed(&mut manager, app, &tokens, 1.0, 0.0, &[1.0; CHUNKS]);
    done(&mut manager, moves);
    let moves = manager.narrow(&Tolerance::new(ERRORS), MOST).expect("lawful");
    for (place, op) in moves.into_iter().enumerate() {
        assert!(manager.encoded(op.id, if place == 2 { 0.6 } else { 0.019 }).is_empty());
        manager.check().expect("sound");
    }
    assert_eq!(by_chunk(&manager, app, &tokens), [FOUR, FOUR, EIGHT, FOUR, FOUR, FOUR]);
    let tight = Tolerance { ratio: 0.3, ..Tolerance::new(ERRORS) };
    assert_eq!(manager.narrow(&Tolerance::new(ERRORS), MOST), Ok(vec![]));
    let moves = manager.narrow(&tight, MOST).expect("lawful");
    assert!(!moves.is_empty());
    done(&mut manager, moves);
    assert_eq!(by_chunk(&manager, app, &tokens)[2], EIGHT, "2 bits lose no less than 4");
}

#[test]
fn mass_that_arrives_later_is_planned_with() {
    let even = [1.0; CHUNKS];
    let tolerance = Tolerance { ratio: 0.5, ..Tolerance::new(ERRORS) };
    let (mut manager, app, tokens) = narrowed(1.0, &even, &tolerance);
    assert_eq!(by_chunk(&manager, app, &tokens), [FOUR; CHUNKS]);
    assert_eq!(manager.narrow(&tolerance, MOST), Ok(vec![]), "as long as nothing is new");
    // Read again, it attends to the first chunk alone: the others are worth less than was thought.
    let more = [1000.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let moves = computed(&mut manager, app, &tokens, 1.0, 1.0, &more);
    done(&mut manager, moves);
    let tight = Tolerance { ratio: 0.3, ..tolerance };
    let moves = manager.narrow(&tight, MOST).expect("lawful");
    done(&mut manager, moves);
    let found = by_chunk(&manager, app, &tokens);
    assert_eq!(found[0], FOUR, "{found:?}");
    assert_eq!(found[1..].iter().filter(|source| **source == TWO).count(), 5, "{found:?}");
}

#[test]
fn what_is_used_and_the_newest_of_any_context_stay() {
    let (mut manager, app) = manager(forms(), Policy::Lru);
    let (long, short) = (tokens(), [&tokens()[..2 * CHUNK_TOKENS], &[7; CHUNK_TOKENS]].concat());
    for (tokens, chunks) in [(&long, CHUNKS), (&short, 3)] {
        let moves = computed(&mut manager, app, tokens, 1.0, 0.0, &vec![1.0; chunks]);
        done(&mut manager, moves);
    }
    let user = manager.open(&call(app, &long[..CHUNK_TOKENS], 1.0)).expect("room").sequence;
    let tolerance = Tolerance { ratio: 0.25, newest: 2, ..Tolerance::new(ERRORS) };
    let moves = manager.narrow(&tolerance, MOST).expect("lawful");
    done(&mut manager, moves);
    // The first is in use, the second among the newest of the short one.
    assert_eq!(by_chunk(&manager, app, &long), [EIGHT, EIGHT, TWO, TWO, EIGHT, EIGHT]);
    assert_eq!(by_chunk(&manager, app, &short), [EIGHT; 3]);
    manager.close(user, 0.0).expect("open");
    // Those used longest ago come first, one context at a time.
    let moves = manager.narrow(&tolerance, 1).expect("lawful");
    assert_eq!(moves.len(), 1);
    done(&mut manager, moves);
    assert_eq!(by_chunk(&manager, app, &long), [TWO, EIGHT, TWO, TWO, EIGHT, EIGHT]);
}

#[test]
fn rows_that_see_only_a_window_say_nothing_of_what_is_before_it() {
    let (mut manager, app) = manager(forms(), Policy::Lru);
    let tokens = tokens();
    let id = manager.open(&call(app, &tokens, 1.0)).expect("room").sequence;
    manager.append(id, tokens.len()).expect("room");
    manager.commit(id, &tokens, 0.0).expect("room");
    // The last two rows see 24 tokens: the last chunk and half of the one before, less a token for the first of them.
    let mass = [0.0, 0.0, 0.0, 0.0, 0.5, 1.5];
    manager.attended(id, &mass, tokens.len() - 2, 2, Some(24)).expect("open");
    manager.close(id, 0.0).expect("open");
    let known = manager.densities(&call(app, &tokens, 1.0)).expect("known");
    assert_eq!(known, [None, None, None, None, Some(0.5 / 17.0), Some(1.5 / 31.0)]);
}

#[test]
fn the_widest_goes_first_from_then_on() {
    let (mut manager, app) = manager(forms(), Policy::Lctru);
    let first = tokens();
    let moves = computed(&mut manager, app, &first, 1.0, 0.0, &[1.0; CHUNKS]);
    done(&mut manager, moves);
    let moves = manager.narrow(&Tolerance::new(ERRORS), MOST).expect("lawful");
    done(&mut manager, moves);
    // Another one, used later and wider.
    let second: Vec<u32> = first.iter().map(|token| token + 1000).collect();
    let id = manager.open(&call(app, &second, 0.0)).expect("room").sequence;
    manager.append(id, second.len()).expect("room");
    manager.commit(id, &second, 0.0).expect("room");
    manager.close(id, 1.0).expect("open");
    let narrow = (LAYERS as u64 * PAGE * CHUNKS as u64).div_ceil(2);
    manager.set_budget(0, narrow);
    manager.check().expect("sound");
    assert_eq!(manager.look_up(&call(app, &first, 1.0)), Ok(first.len()));
    assert!(manager.look_up(&call(app, &second, 1.0)).expect("known") < second.len());
}

#[test]
fn what_cannot_be_is_refused() {
    let (mut manager, _) = manager(forms()[..3].to_vec(), Policy::Lru);
    let refused = manager.narrow(&Tolerance::new(ERRORS), MOST);
    assert!(matches!(refused, Err(KvError::Config { field: "forms", .. })), "{refused:?}");
    let (mut manager, app) = self::manager(forms(), Policy::Lru);
    let tokens = tokens();
    let moves = computed(&mut manager, app, &tokens, 1.0, 0.0, &[1.0; CHUNKS]);
    done(&mut manager, moves);
    let tight = Tolerance { ratio: 0.1, ..Tolerance::new(ERRORS) };
    let refused = manager.narrow(&tight, MOST);
    assert!(matches!(refused, Err(KvError::Widths(ToleranceError::TooTight { .. }))), "{refused:?}");
    assert_eq!(by_chunk(&manager, app, &tokens), [EIGHT; CHUNKS]);
}

#[test]
fn the_newest_of_a_call_stay_exact_until_there_are_newer_ones() {
    let (mut manager, app) = manager(forms(), Policy::Lru);
    manager.keep_newest(2);
    let tokens = tokens();
    let four = &tokens[..4 * CHUNK_TOKENS];
    let moves = computed(&mut manager, app, four, 1.0, 0.0, &[1.0; 4]);
    done(&mut manager, moves);
    assert_eq!(by_chunk(&manager, app, four), [EIGHT, EIGHT, Source::Own, Source::Own]);
    let moves = computed(&mut manager, app, &tokens, 1.0, 0.0, &[1.0; CHUNKS]);
    done(&mut manager, moves);
    assert_eq!(by_chunk(&manager, app, &tokens), [EIGHT, EIGHT, EIGHT, EIGHT, Source::Own, Source::Own]);
}

/// What is computed over a narrowed context has lost what that has, and no more: it gets narrower like what was there before, and
/// no turn takes more than it would without.
#[test]
fn a_context_that_grows_over_narrow_chunks_stays_narrow() {
    let tolerance = Tolerance { newest: 1, ..Tolerance::new(ERRORS) };
    let held = |narrows: bool| -> Vec<u64> {
        let (mut manager, app) = manager(forms(), Policy::Lru);
        let all: Vec<u32> = (0..(4 * CHUNKS * CHUNK_TOKENS) as u32).collect();
        let turns = (1..=4).map(|turn| {
            let tokens = &all[..turn * CHUNKS * CHUNK_TOKENS];
            // Five times what 4 bits cost.
            let moves = computed(&mut manager, app, tokens, 0.16, turn as f64, &vec![1.0; turn * CHUNKS]);
            done(&mut manager, moves);
            if narrows {
                let moves = manager.narrow(&tolerance, MOST).expect("lawful");
                done(&mut manager, moves);
                let found = by_chunk(&manager, app, tokens);
                assert_eq!(found[found.len() - 2..], [FOUR, EIGHT], "turn {turn}");
                assert!(
                    found[..found.len() - 2].iter().all(|source| *source == FOUR),
                    "turn {turn}: {found:?}"
                );
                // What comes behind has 8 bits over that.
                assert!(drift(&mut manager, app, tokens) <= 0.16 * 0.6);
            }
            manager.held_bytes(0)
        });
        turns.collect()
    };
    let (narrow, wide) = (held(true), held(false));
    assert!(
        narrow[0] <= wide[0] && narrow.iter().zip(&wide).skip(1).all(|(narrow, wide)| narrow < wide),
        "{narrow:?}, {wide:?}"
    );
}

#[test]
fn there_are_no_more_moves_than_were_asked_for() {
    let (mut manager, app) = manager(forms(), Policy::Lru);
    let (first, second) = (tokens(), tokens().iter().map(|token| token + 1000).collect::<Vec<u32>>());
    for (tokens, now) in [(&first, 0.0), (&second, 1.0)] {
        let moves = computed(&mut manager, app, tokens, 1.0, now, &[1.0; CHUNKS]);
        done(&mut manager, moves);
    }
    let tolerance = Tolerance::new(ERRORS);
    for (most, planned) in [(4, 4), (4, 4), (4, 4), (4, 0)] {
        let moves = manager.narrow(&tolerance, most).expect("lawful");
        assert_eq!(moves.len(), planned);
        done(&mut manager, moves);
    }
    assert_eq!([by_chunk(&manager, app, &first), by_chunk(&manager, app, &second)], [[FOUR; CHUNKS]; 2]);
}
