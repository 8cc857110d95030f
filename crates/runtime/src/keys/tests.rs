//! What is chosen by times that are known beforehand, and what is kept of those that are measured.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::time::Duration;

use interleaf_contract::{CHUNK_TOKENS, PageElement};
use interleaf_demo_model as demo;

use super::{KeyReads, KeyReason, KeyTimes, Kind};
use crate::adapters::Activation;
use crate::{BackendChoice, Engine, EngineOptions, Request, SamplingOptions, SequenceHandle, Source};

const BUDGET: f32 = 1e-3;

const CHUNKS: usize = 8;

/// Tokens of an answer that anything pays for which saves time.
const MANY: Option<usize> = Some(1_000_000);

struct World {
    engine: Engine,
    /// The chunks' tokens, and one more.
    text: Vec<u32>,
}

impl World {
    /// The base has answered, and two adapters whose pages are differences from the base's.
    fn new() -> Self {
        let options = EngineOptions {
            backend: BackendChoice::Cpu,
            pages: PageElement::F16,
            ..EngineOptions::default()
        };
        let embedded = |name, files| Source::Embedded { name, files };
        let mut engine =
            Engine::open(embedded(demo::NAME, demo::BASE), &options, &mut |_| ()).expect("it loads");
        for &(name, files) in &demo::ADAPTERS[..2] {
            engine.register_adapter(name, &embedded(name, files)).expect("it loads");
        }
        engine.reserve_kv(80, 16).expect("a small pool");
        let text = "A trait tells the compiler what a type can do. A vector owns its elements. ".repeat(20);
        let text = engine.tokenizer("a test").expect("it has one").encode(&text, true).expect("plain text");
        let mut world = Self { engine, text: text[..=CHUNKS * CHUNK_TOKENS].to_vec() };
        for adapter in [None, Some(0), Some(1)] {
            let request = Request {
                prompt: world.text.clone(),
                adapter: adapter.map(|adapter: usize| demo::ADAPTERS[adapter].0.to_owned()),
                max_tokens: 1,
                sampling: SamplingOptions::default(),
                stop: Vec::new(),
                end_tokens: Vec::new(),
                drift: BUDGET,
            };
            world.engine.generate(&[request], &mut |_| ControlFlow::Continue(())).expect("it answers");
        }
        world
    }

    /// A sequence that finds so many chunks of an adapter's.
    fn open(&mut self, adapter: usize, chunks: usize) -> SequenceHandle {
        let prompt = &self.text[..=chunks * CHUNK_TOKENS];
        let activation: Option<Activation> =
            self.engine.adapters.activation(demo::ADAPTERS[adapter].0, prompt).expect("registered");
        let (sequence, reused) =
            self.engine.resume(self.engine.cache.own(), activation, prompt, BUDGET).expect("it opens");
        assert_eq!(reused, chunks * CHUNK_TOKENS);
        sequence
    }

    fn choose(&mut self, sequence: SequenceHandle, tokens: Option<usize>) -> KeyReads {
        self.engine.choose_keys(sequence.id, tokens).expect("it decodes")
    }

    /// Chunks whose keys are read in place, and materialised.
    fn reads(&self, sequence: SequenceHandle) -> (usize, usize) {
        self.engine.cache.manager().keys_read(sequence.id).expect("open")
    }

    /// Makes it known of contexts like a sequence's that materialised keys take half the time, or twice as long.
    fn know(&mut self, sequence: SequenceHandle, pays: bool) -> KeyTimes {
        let found = self.engine.cache.manager().keys_in_place(sequence.id, super::KeySet::Apart);
        let kind = Kind::of(self.engine.backend.info().name, &found.expect("open"));
        let [in_place, materialised, making] = [2, if pays { 1 } else { 4 }, 1].map(Duration::from_millis);
        let times = KeyTimes { chunks: CHUNKS, in_place, materialised, making };
        self.engine.keys.known.insert(kind, times);
        times
    }

    fn close(&mut self, sequence: SequenceHandle) {
        self.engine.close_sequence(sequence).expect("open");
    }
}

#[test]
fn known_times_decide() {
    let mut world = World::new();
    let sequence = world.open(0, CHUNKS);
    for pays in [false, true] {
        let times = Some(world.know(sequence, pays));
        let keys = world.choose(sequence, MANY);
        assert_eq!((keys.reason, keys.times), (KeyReason::Measured, times));
        assert_eq!(world.reads(sequence), if pays { (0, CHUNKS) } else { (CHUNKS, 0) });
    }
    world.close(sequence);
    let sequence = world.open(0, CHUNKS);
    let keys = world.choose(sequence, Some(31));
    assert_eq!((keys.reason, keys.in_place, keys.times), (KeyReason::FewTokens, CHUNKS, None));
}

#[test]
fn what_others_have_had_made_is_read_for_nothing() {
    let mut world = World::new();
    let first = world.open(0, CHUNKS);
    world.know(first, true);
    let keys = world.choose(first, MANY);
    assert_eq!((keys.materialised, keys.reason), (CHUNKS, KeyReason::Measured));
    // However few tokens there will be; who says nothing of that has keys read in place.
    for tokens in [MANY, Some(2)] {
        let second = world.open(0, CHUNKS);
        let keys = world.choose(second, tokens);
        assert_eq!((keys.in_place, keys.materialised), (0, CHUNKS));
        assert_eq!((keys.reason, keys.times), (KeyReason::AlreadyThere, None));
    }
    let third = world.open(0, CHUNKS);
    let keys = world.choose(third, None);
    assert_eq!((keys.in_place, keys.reason), (CHUNKS, KeyReason::FewTokens));
}

#[test]
fn times_of_what_was_made_beside_others_keys_are_not_kept() {
    let mut world = World::new();
    let half = world.open(0, CHUNKS / 2);
    world.know(half, true);
    assert_eq!(world.choose(half, MANY).materialised, CHUNKS / 2);
    world.engine.keys.known.clear();
    let whole = world.open(0, CHUNKS);
    let keys = world.choose(whole, MANY);
    assert_eq!(keys.reason, KeyReason::Measured);
    assert_eq!(keys.times.map(|times| times.chunks), Some(CHUNKS / 2), "the others cost nothing");
    // Whether the rest pays or not.
    assert!(keys.materialised >= CHUNKS / 2, "{keys:?}");
    assert!(world.engine.keys.known.is_empty());
    [half, whole].into_iter().for_each(|sequence| world.close(sequence));
    let whole = world.open(0, CHUNKS);
    let keys = world.choose(whole, MANY);
    assert_eq!(keys.times.map(|times| times.chunks), Some(CHUNKS));
    assert_eq!(world.engine.keys.known.values().copied().collect::<Vec<_>>(), Vec::from_iter(keys.times));
    // Contexts of other lengths, or in which others share most, are of other kinds.
    world.close(whole);
    let half = world.open(0, CHUNKS / 2);
    assert_eq!(world.choose(half, MANY).times.map(|times| times.chunks), Some(CHUNKS / 2));
    assert_eq!(world.engine.keys.known.len(), 2);
}

#[test]
fn who_comes_to_share_an_anchor_has_cheap_keys_read_in_place() {
    let mut world = World::new();
    let first = world.open(0, CHUNKS);
    world.know(first, true);
    assert_eq!(world.choose(first, MANY).materialised, CHUNKS);
    let other = world.open(1, CHUNKS);
    assert_eq!(world.reads(first), (0, CHUNKS));
    let keys = world.choose(other, MANY);
    assert_eq!((keys.in_place, keys.materialised, keys.bytes), (CHUNKS, 0, 0));
    assert_eq!((keys.reason, keys.times), (KeyReason::Shared, None));
    assert_eq!([first, other].map(|sequence| world.reads(sequence)), [(CHUNKS, 0); 2]);
    // What is not shared is chosen as ever.
    world.close(other);
    assert_eq!(world.choose(first, MANY).materialised, CHUNKS);
}
