//! Contexts at rest in the widths that their chunks' densities are worth.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod small;

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::policy::Policy;
use interleaf_kv::{
    AppId, Form, KvError, Layers, Manager, Op, Open, Over, SequenceId, Source, Tolerance, ToleranceError,
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
    vec![form(4, 0.02), Form { over: Over::Base, ..form(2, 0.03) }, form(8, 0.001), form(2, 0.2)]
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

/// A context that was computed exactly, for somebody who allows so much.
fn computed(manager: &mut Manager, app: AppId, budget: f32) -> Vec<u32> {
    let tokens = tokens();
    let id: SequenceId = manager.open(&call(app, &tokens, budget)).expect("room").sequence;
    manager.append(id, tokens.len()).expect("room");
    manager.commit(id, &tokens, 0.0).expect("room");
    assert_eq!(manager.close(id, 0.0), Ok(vec![]), "its densities are not known yet");
    tokens
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

const ERRORS: [f64; 3] = [0.005, 0.08, 0.4];

#[test]
fn the_densest_keep_most_bits_within_the_ratio() {
    let (mut manager, app) = manager(forms(), Policy::Lru);
    let tokens = computed(&mut manager, app, 1.0);
    let densities = [9.0, 0.01, 0.02, 1.0, 0.5, 3.0];
    let tolerance = Tolerance { newest: 1, ..Tolerance::new(ERRORS) };
    let moves = manager.narrow(&call(app, &tokens, 1.0), &densities, &tolerance).expect("lawful");
    done(&mut manager, moves);
    assert_eq!(by_chunk(&manager, app, &tokens), [EIGHT, TWO, TWO, FOUR, FOUR, Source::Own]);
    // Two of eight layers' pages a block, four of two bits', and so on: half of what five take at 8 bits, rounded to blocks.
    let pieces = LAYERS as u64 * PAGE * (8 + 4 + 4 + 2 + 2) / 16;
    assert_eq!(pieces, LAYERS as u64 * 5 * PAGE / 4, "a half of 8 bits");
    assert!(manager.held_bytes(0) <= LAYERS as u64 * PAGE * (1 + 1 + 1 + 1));
}

#[test]
fn nobody_gets_less_than_he_allows_and_nothing_comes_back() {
    let (mut manager, app) = manager(forms(), Policy::Lru);
    // Exactly computed for somebody who wants it exact: no form is lawful.
    let tokens = computed(&mut manager, app, 0.0);
    let tolerance = Tolerance::new(ERRORS);
    let even = [1.0; CHUNKS];
    assert_eq!(manager.narrow(&call(app, &tokens, 1.0), &even, &tolerance), Ok(vec![]));
    // 4 bits are allowed, and 2 are not.
    let (mut manager, app) = self::manager(forms(), Policy::Lru);
    let tokens = computed(&mut manager, app, 0.1);
    let tight = Tolerance { ratio: 0.25, ..tolerance };
    let moves = manager.narrow(&call(app, &tokens, 1.0), &even, &tight).expect("lawful");
    done(&mut manager, moves);
    assert_eq!(by_chunk(&manager, app, &tokens), [FOUR; CHUNKS]);
    let wide = Tolerance { ratio: 1.0, ..tolerance };
    assert_eq!(manager.narrow(&call(app, &tokens, 1.0), &even, &wide), Ok(vec![]));
}

#[test]
fn the_widest_goes_first_from_then_on() {
    let (mut manager, app) = manager(forms(), Policy::Lctru);
    let first = computed(&mut manager, app, 1.0);
    let tolerance = Tolerance::new(ERRORS);
    let moves = manager.narrow(&call(app, &first, 1.0), &[1.0; CHUNKS], &tolerance).expect("lawful");
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
    let (mut manager, app) = manager(forms()[..3].to_vec(), Policy::Lru);
    let tokens = computed(&mut manager, app, 1.0);
    let refused = manager.narrow(&call(app, &tokens, 1.0), &[1.0; CHUNKS], &Tolerance::new(ERRORS));
    assert!(matches!(refused, Err(KvError::Config { field: "forms", .. })), "{refused:?}");
    let (mut manager, app) = self::manager(forms(), Policy::Lru);
    let tokens = computed(&mut manager, app, 1.0);
    let tight = Tolerance { ratio: 0.1, ..Tolerance::new(ERRORS) };
    let refused = manager.narrow(&call(app, &tokens, 1.0), &[1.0; CHUNKS], &tight);
    assert!(matches!(refused, Err(KvError::Widths(ToleranceError::TooTight { .. }))), "{refused:?}");
    assert_eq!(by_chunk(&manager, app, &tokens), [Source::Own; CHUNKS]);
}
