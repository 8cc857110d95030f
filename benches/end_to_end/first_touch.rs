//! An adapter's first touch of a prefix of 512 tokens that the base has in the cache, against its own prefill: translating all of
//! it, all but the last 64 tokens, which the adapter computes, and the first token of a call with 64 new tokens behind it
//! (MobiLoRA's setting). On the demo model, and on generated weights of Llama 3.2 1B's shape in 4 bits. What a map predicts has
//! no say in how long that takes: these are random.
//!
//! What is timed takes turns; medians and their shares are printed.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use interleaf_demo_model as demo;
use interleaf_model::{
    Calibration, Directions, HalfCalibration, JointCalibration, Ladder, LayerCalibration, MadeFrom,
    MeasuredTouch,
};
use interleaf_runtime::{
    Engine, EngineOptions, Feed, FirstTouch, PeftAdapter, Request, RowKind, SamplingOptions, SequenceHandle,
    Shape, Source, Store, TRANSLATION_RANK, TranslationMap, Want, WeightFormat,
};

const PREFIX: usize = 512;
const COMPUTED: usize = 64;
const NEW: usize = 64;
const ADAPTER: &str = "adapter";

/// What the calibration allows, so that the engine translates.
const BUDGET: f32 = 1e-2;

pub fn first_touch() {
    let demo = Source::Embedded { name: demo::NAME, files: demo::BASE };
    measure("the demo model", demo, WeightFormat::Stored, crate::turns(31));
    if !crate::is_measuring() {
        return;
    }
    let shape = Shape::named("llama-3.2-1b").expect("a shape");
    measure("llama-3.2-1b, generated, Q4_0", Source::Generated { shape, seed: 1 }, WeightFormat::Q4_0, 3);
}

fn measure(name: &str, source: Source, weights: WeightFormat, turns: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Some(folder.path().to_owned());
    let options = EngineOptions { weights, store, ..EngineOptions::default() };
    let mut engine = Engine::open(source, &options, &mut |_| ()).expect("the model loads");
    let adapter = PeftAdapter::generated(ADAPTER, 16, 1, engine.model()).expect("it fits");
    let digest = engine.register_opened(adapter).expect("it is new").digest;
    let joint = joint(&engine);
    let calibration = calibration(&engine, digest, joint.clone());
    Store::new(Some(folder.path().to_owned())).keep_calibration(&calibration).expect("room on the disk");
    engine.reserve_kv(4, PREFIX + NEW + 16).expect("a small pool");
    let map = engine.create_map(ADAPTER, &joint).expect("room");

    let ways =
        ["prefill", "translate", "translate, last 64", "first token, prefill", "first token, translated"];
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); ways.len()];
    for turn in 0..=turns {
        let tokens = tokens(&engine, turn);
        let of_turn = [
            alone(&mut engine, &tokens, None),
            alone(&mut engine, &tokens, Some((&map, PREFIX))),
            alone(&mut engine, &tokens, Some((&map, PREFIX - COMPUTED))),
            first_token(&mut engine, &tokens, 0.0),
            first_token(&mut engine, &tokens, BUDGET),
        ];
        // The first turn finds nothing in place.
        if turn > 0 {
            times.iter_mut().zip(of_turn).for_each(|(times, time)| times.push(time));
        }
    }
    engine.drop_map(map).expect("it is known");
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64()
    };
    let medians: Vec<f64> = times.iter_mut().map(median).collect();
    println!("{name}, a prefix of {PREFIX} tokens, {NEW} new ones, map of rank {TRANSLATION_RANK}:");
    for (place, (way, median)) in ways.iter().zip(&medians).enumerate() {
        let whole = medians[if place < 3 { 0 } else { 3 }];
        println!(
            "  {way:<24} {:>9.2} ms {:>6.1} %  {:>5.1} x",
            1e3 * median,
            100.0 * median / whole,
            whole / median
        );
    }
}

fn tokens(engine: &Engine, turn: usize) -> Vec<u32> {
    let vocabulary = engine.config().vocab_size;
    (0..PREFIX + NEW).map(|i| ((i * 7919 + turn * 104_729 + 11) % vocabulary) as u32).collect()
}

/// The adapter's prefix: its own prefill, or the base's pages, which are there before the clock runs, translated so far.
fn alone(engine: &mut Engine, tokens: &[u32], way: Option<(&TranslationMap, usize)>) -> Duration {
    let prefix = &tokens[..PREFIX];
    // Whose pages these are does not matter to translating them.
    let sequence = engine.open_sequence(Some(ADAPTER), prefix).expect("room");
    let mut start = Instant::now();
    match way {
        None => feed(engine, sequence, prefix),
        Some((map, translated)) => {
            feed(engine, sequence, prefix);
            start = Instant::now();
            engine.translate_tokens(sequence, prefix, 0..translated, map).expect("it runs");
            engine.truncate_sequence(sequence, translated).expect("open");
            feed(engine, sequence, &prefix[translated..]);
        }
    }
    let time = start.elapsed();
    engine.close_sequence(sequence).expect("open");
    time
}

fn feed(engine: &mut Engine, sequence: SequenceHandle, tokens: &[u32]) {
    for tokens in tokens.chunks(128) {
        let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Nothing };
        engine.feed(&[feed]).expect("it runs");
    }
}

/// From a call to its first token, the base having answered to the prefix.
fn first_token(engine: &mut Engine, tokens: &[u32], drift: f32) -> Duration {
    engine.reserve_kv(4, PREFIX + NEW + 16).expect("a small pool");
    let request = |prompt: &[u32], adapter: Option<&str>, drift| Request {
        prompt: prompt.to_vec(),
        adapter: adapter.map(str::to_owned),
        max_tokens: 1,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift,
    };
    let mut answer = |request: Request| {
        engine.generate(&[request], &mut |_| ControlFlow::Continue(())).expect("it answers").remove(0)
    };
    answer(request(&tokens[..PREFIX + 1], None, 0.0));
    // The map is made resident by the first prefix that is translated.
    let other: Vec<u32> = tokens[..128].iter().rev().copied().collect();
    answer(request(&other, None, 0.0));
    answer(request(&other, Some(ADAPTER), drift));
    let completion = answer(request(tokens, Some(ADAPTER), drift));
    let translated = match completion.first_touch {
        FirstTouch::Translated { tokens, .. } => tokens,
        _ => 0,
    };
    assert_eq!(translated, if drift > 0.0 { PREFIX - COMPUTED } else { 0 }, "{:?}", completion.first_touch);
    completion.first_token.expect("it has one")
}

fn joint(engine: &Engine) -> JointCalibration {
    let config = engine.config();
    let (layers, width) = (config.layers, config.kv_heads * config.head_dim);
    let (outputs, rank) = (2 * layers * width, TRANSLATION_RANK);
    let mut seed = 1_u32;
    let mut values = |count: usize, scale: f32| -> Vec<f32> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            scale * ((seed >> 8) as f32 / (1 << 24) as f32 - 0.5)
        };
        (0..count).map(|_| next()).collect()
    };
    JointCalibration {
        down: values((outputs + config.hidden_size + 1) * rank, 1e-2),
        up: values(rank * outputs, 1e-2),
        scales: vec![1.0; 2 * layers],
        residual: Directions { rows: values(rank * outputs, 1e-2), deviations: vec![1.0; rank] },
    }
}

/// One that nothing was fitted for, and which allows all that is measured here.
fn calibration(engine: &Engine, adapter: interleaf_runtime::Digest, joint: JointCalibration) -> Calibration {
    let config = engine.config();
    let (layers, width) = (config.layers, config.kv_heads * config.head_dim);
    let directions = || Directions { rows: vec![0.0; width], deviations: vec![1.0] };
    let half = HalfCalibration {
        mean: vec![0.0; width],
        basis: directions(),
        prediction: vec![0.0; (2 * width + 1) * width],
        residual: directions(),
    };
    let layer = LayerCalibration { profile: vec![1.0; width], k: half.clone(), v: half };
    Calibration {
        model: engine.model_digest(),
        adapter,
        made_from: MadeFrom {
            text: "nothing".into(),
            text_digest: None,
            window_tokens: PREFIX,
            fitted: 1,
            held_back: 1,
            prefix_tokens: PREFIX,
        },
        layers: vec![layer; layers],
        joint: Some(joint),
        measured: Vec::new(),
        ladder: Ladder::default(),
        rest: Vec::new(),
        touches: vec![MeasuredTouch { prefix: PREFIX, computed: COMPUTED, kl: 1e-3, bound: BUDGET }],
    }
}
