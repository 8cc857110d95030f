//! Keys of encoded chunks, read in place or as exact pages: both ways answer alike, what the second one takes comes back, and
//! nothing is taken for it.

use std::ops::ControlFlow;

use interleaf_runtime::{
    BackendChoice, Completion, Engine, EngineOptions, Feed, KeyPath, KeyReads, KeyReason, PageElement,
    Request, RowKind, SequenceHandle, Want,
};
use interleaf_tests::tolerance::assert_bits;

use super::lossy::{BUDGET, SHARED, all, divergence, prompt, request, warm};
use super::support::{demo, models, options};
use super::{calibrated, lossy};

/// Chunks that all prompts share.
const CHUNKS: usize = SHARED / 16;

/// Tokens that are generated.
const STEPS: usize = 12;

fn open(options: EngineOptions, chunks: usize) -> Engine {
    let mut engine = demo(&options);
    engine.reserve_kv(chunks, 16).expect("a small pool");
    engine
}

fn engines(backend: BackendChoice, pages: PageElement) -> [Engine; 2] {
    [KeyPath::InPlace, KeyPath::Materialised].map(|keys| {
        let mut engine = open(EngineOptions { pages, keys, ..options(backend) }, 500);
        warm(&mut engine, BUDGET);
        engine
    })
}

/// What two ways of reading may differ by: keys are rounded to the pool's element once more, by half a unit in its last place
/// at most, which is their relative error; what that costs is a quarter of its square at most, by the bound that covered every
/// error measured on these models. The other part is of f32: sums of keys in one order or another are off by so many times
/// 2⁻²⁴ as there are elements in a head and tokens, and that too counts squared.
fn tolerance(pages: PageElement) -> f64 {
    let rounding = match pages {
        PageElement::F16 => 2.0_f64.powi(-11),
        _ => 0.0,
    };
    let sums = 512.0 * 2.0_f64.powi(-24);
    0.25 * (rounding + sums).powi(2)
}

/// Opens a sequence over what is cached and generates some tokens, which are given.
fn decode(
    engine: &mut Engine,
    adapter: Option<&str>,
    tokens: &[u32],
    drift: f32,
) -> (Vec<f32>, SequenceHandle) {
    let (sequence, cached) = engine.resume_sequence(adapter, tokens, drift).expect("it opens");
    assert_eq!(cached, if drift > 0.0 { SHARED } else { 0 }, "{adapter:?}");
    let kind = RowKind::Prompt;
    let before = Feed { sequence, tokens: &tokens[cached..], kind, want: Want::Nothing };
    engine.feed(&[before]).expect("it runs");
    let logits = (0..STEPS as u32).flat_map(|step| {
        let (tokens, kind, want) = (&[300 + 5 * step], RowKind::Generated, Want::Logits);
        engine.feed(&[Feed { sequence, tokens, kind, want }]).expect("it runs").remove(0).logits
    });
    (logits.collect(), sequence)
}

/// Both ways over the same cached pages, in every step of an answer.
fn agree(
    [in_place, materialised]: &mut [Engine; 2],
    adapter: Option<&str>,
    tokens: &[u32],
    pages: PageElement,
    what: &str,
) {
    let held = materialised.memory();
    assert_eq!((held.kv_in_use, held.kv_keys), (0, 0));
    let (expected, first) = decode(in_place, adapter, tokens, BUDGET);
    let (found, second) = decode(materialised, adapter, tokens, BUDGET);
    assert_eq!(in_place.memory().kv_keys, 0);
    let keys = materialised.memory().kv_keys;
    let whole = (materialised.config().layers * CHUNKS * 16) as u64
        * (materialised.config().kv_heads * materialised.config().head_dim) as u64
        * pages.bytes(1) as u64;
    assert!(keys > 0 && keys <= whole, "{keys} of {whole}");
    let cost = divergence(&expected, &found, in_place.config().vocab_size);
    println!("{what} {adapter:?}, {pages:?}: {cost:.1e}, {keys} bytes of keys");
    assert!(cost.abs() <= tolerance(pages), "{what} {adapter:?}: {cost:e} > {:e}", tolerance(pages));
    in_place.close_sequence(first).expect("open");
    materialised.close_sequence(second).expect("open");
    let after = materialised.memory();
    assert_eq!((after.kv_in_use, after.kv_keys), (0, 0), "what was taken is given back");
}

#[test]
fn both_ways_answer_alike() {
    for backend in all() {
        for pages in [PageElement::F16, PageElement::F32] {
            let mut engines = engines(backend, pages);
            for adapter in models() {
                let tokens = prompt(&engines[0], 5);
                agree(&mut engines, adapter, &tokens, pages, &format!("{backend:?}"));
            }
        }
    }
}

/// Keys of few coefficients are expanded and turned at every read in place.
#[test]
fn both_ways_answer_alike_over_a_calibrated_ladder() {
    let folder = calibrated::store();
    let (adapter, pages) = (Some(calibrated::ADAPTER), PageElement::F16);
    for backend in all() {
        let mut engines = [KeyPath::InPlace, KeyPath::Materialised].map(|keys| {
            let store = Some(folder.path().to_owned());
            let mut engine = open(EngineOptions { pages, keys, store, ..options(backend) }, 200);
            for adapter in [None, adapter] {
                lossy::answer(&mut engine, &calibrated::prompt(0), adapter, BUDGET);
            }
            assert!(engine.kv_by_codec().iter().any(|(codec, _)| codec.starts_with("low-rank")));
            engine
        });
        agree(&mut engines, adapter, &calibrated::prompt(1), pages, &format!("{backend:?}"));
    }
}

#[test]
fn exact_answers_are_the_same_to_the_bit() {
    for backend in all() {
        let mut engines = engines(backend, PageElement::F16);
        for adapter in models() {
            let tokens = prompt(&engines[0], 6);
            let [expected, found] = engines.each_mut().map(|engine| {
                let (logits, sequence) = decode(engine, adapter, &tokens, 0.0);
                assert_eq!(engine.memory().kv_keys, 0, "nothing encoded was found");
                engine.close_sequence(sequence).expect("open");
                logits
            });
            assert_bits("logits", &expected, &found);
        }
    }
}

/// An adapter's answer of so many tokens to a prompt that begins as all do.
fn generate(engine: &mut Engine, own: u32, max_tokens: usize, drift: f32) -> Completion {
    let request = Request { max_tokens, ..request(&prompt(engine, own), models()[1], drift) };
    let answers = engine.generate(&[request], &mut |_| ControlFlow::Continue(()));
    answers.expect("it answers").remove(0)
}

/// What an answer says of how it read keys, and that it is remembered. Which way is faster here nobody knows.
#[test]
fn what_ran_and_why_is_said() {
    for backend in all() {
        for (keys, in_place, materialised) in
            [(KeyPath::InPlace, CHUNKS, 0), (KeyPath::Materialised, 0, CHUNKS)]
        {
            let mut engine = open(EngineOptions { keys, pages: PageElement::F16, ..options(backend) }, 500);
            warm(&mut engine, BUDGET);
            let found = generate(&mut engine, 3, 4, BUDGET).keys;
            assert_eq!((found.in_place, found.materialised), (in_place, materialised));
            assert_eq!((found.given_up, found.reason, found.times), (0, KeyReason::Pinned, None));
            assert_eq!(found.bytes > 0, materialised > 0);
        }
        let mut engine = open(EngineOptions { pages: PageElement::F16, ..options(backend) }, 500);
        warm(&mut engine, BUDGET);
        let short = generate(&mut engine, 4, 32, BUDGET).keys;
        assert_eq!((short.in_place, short.reason, short.times), (CHUNKS, KeyReason::FewTokens, None));
        let first = generate(&mut engine, 5, 40, BUDGET);
        assert_eq!((first.tokens.len(), first.keys.reason), (40, KeyReason::Measured));
        let times = first.keys.times.expect("it was measured");
        println!("{backend:?}: {times:?}");
        assert_eq!(times.chunks, CHUNKS);
        // It reads all of them in one way.
        assert!(first.keys.in_place == 0 || first.keys.materialised == 0, "{:?}", first.keys);
        assert_eq!(first.keys.in_place + first.keys.materialised, CHUNKS);
        let second = generate(&mut engine, 6, 40, BUDGET);
        assert_eq!(second.keys, first.keys, "what was measured is remembered");
        let exact = generate(&mut engine, 3, 40, 0.0).keys;
        assert_eq!((exact.in_place + exact.materialised, exact.reason), (0, KeyReason::NothingEncoded));
        assert_eq!((engine.memory().kv_in_use, engine.memory().kv_keys), (0, 0));
    }
}

/// Every model's answers to one prompt, in one call.
fn generate_all(engine: &mut Engine, own: u32, max_tokens: usize) -> Vec<KeyReads> {
    let request = |adapter| Request { max_tokens, ..request(&prompt(engine, own), adapter, BUDGET) };
    let requests: Vec<Request> = models().into_iter().map(request).collect();
    let answers = engine.generate(&requests, &mut |_| ControlFlow::Continue(())).expect("it answers");
    assert!(answers.iter().all(|answer| answer.reused_tokens == SHARED));
    answers.into_iter().map(|answer| answer.keys).collect()
}

/// Rows that are differences in codes from the same pages decode these once, as long as all of them read them: whoever is open
/// together, and whoever comes later.
#[test]
fn keys_over_an_anchor_of_several_rows_stay_where_they_are() {
    for backend in all() {
        let open = |prefill_rows, keys| {
            let options = EngineOptions { pages: PageElement::F16, prefill_rows, keys, ..options(backend) };
            let mut engine = open(options, 500);
            warm(&mut engine, BUDGET);
            engine
        };
        // All prompts' own tokens in one step.
        let mut engine = open(128, KeyPath::Measured);
        for keys in generate_all(&mut engine, 3, 40) {
            assert_eq!((keys.in_place, keys.materialised, keys.bytes), (CHUNKS, 0, 0));
            assert_eq!((keys.reason, keys.times), (KeyReason::Shared, None));
        }
        // One prompt after another: the first has chosen when the next one comes.
        let mut engine = open(20, KeyPath::Measured);
        let mut all = generate_all(&mut engine, 4, 40);
        let first = all.remove(0);
        assert_eq!(first.reason, KeyReason::Measured);
        assert_eq!(first.given_up, first.materialised, "{first:?}");
        assert!(
            all.iter().all(|keys| (keys.reason, keys.in_place) == (KeyReason::Shared, CHUNKS)),
            "{all:?}"
        );
        // Pinned, each has its own.
        let mut engine = open(128, KeyPath::Materialised);
        for keys in generate_all(&mut engine, 3, 4) {
            assert_eq!((keys.materialised, keys.given_up), (CHUNKS, 0));
        }
        assert_eq!((engine.memory().kv_in_use, engine.memory().kv_keys), (0, 0));
    }
}

/// What is measured of a part of a context, for want of room, is not taken for what it takes to read all of it.
#[test]
fn times_of_a_part_are_not_kept() {
    for backend in all() {
        let (pages, keys) = (PageElement::F16, KeyPath::Measured);
        let mut engine = open(EngineOptions { pages, keys, ..options(backend) }, 120);
        warm(&mut engine, BUDGET);
        let sequence = fill(&mut engine, 3);
        let part = generate(&mut engine, 3, 40, BUDGET).keys;
        let times = part.times.expect("it was measured");
        assert!(part.reason == KeyReason::Measured && (1..CHUNKS).contains(&times.chunks), "{part:?}");
        engine.close_sequence(sequence).expect("open");
        let [first, second] = [4, 5].map(|own| generate(&mut engine, own, 40, BUDGET).keys.times);
        assert_eq!(first.map(|times| times.chunks), Some(CHUNKS), "measured anew");
        assert_eq!(second, first, "and kept");
    }
}

/// Keys of few coefficients take much to decode for each row, whatever the rows share: they are measured beside others, too.
#[test]
fn dear_keys_are_measured_beside_others_over_the_same_anchors() {
    let (folder, adapter) = (calibrated::store(), Some(calibrated::ADAPTER));
    for backend in all() {
        let store = Some(folder.path().to_owned());
        let mut engine = open(EngineOptions { pages: PageElement::F16, store, ..options(backend) }, 200);
        for adapter in [None, adapter] {
            lossy::answer(&mut engine, &calibrated::prompt(0), adapter, BUDGET);
        }
        let request =
            |adapter| Request { max_tokens: 40, ..request(&calibrated::prompt(1), adapter, BUDGET) };
        let requests = [None, adapter].map(request);
        let answers = engine.generate(&requests, &mut |_| ControlFlow::Continue(())).expect("it answers");
        let [base, over] = [0, 1].map(|i| answers[i].keys);
        assert_eq!((base.in_place, base.reason), (CHUNKS, KeyReason::Shared));
        assert_eq!((over.reason, over.times.map(|times| times.chunks)), (KeyReason::Measured, Some(CHUNKS)));
    }
}

/// How much of what all prompts share each adapter finds.
fn found(engine: &mut Engine) -> Vec<usize> {
    let tokens = prompt(engine, 9);
    let of = |adapter| {
        let (sequence, reused) = engine.resume_sequence(adapter, &tokens, BUDGET).expect("it opens");
        engine.close_sequence(sequence).expect("open");
        reused
    };
    models().into_iter().map(of).collect()
}

/// Somebody takes all that is free, until something goes that can be spared, and gives so many chunks back.
fn fill(engine: &mut Engine, free: usize) -> SequenceHandle {
    let cached = engine.memory().kv_cached;
    let sequence = engine.open_sequence(None, &[]).expect("it opens");
    let mut taken = 0;
    while engine.memory().kv_cached == cached {
        let feed = Feed { sequence, tokens: &[300; 16], kind: RowKind::Prompt, want: Want::Nothing };
        engine.feed(&[feed]).expect("room");
        taken += 16;
    }
    assert!(taken > 16 * free);
    engine.truncate_sequence(sequence, taken - 16 * free).expect("open");
    sequence
}

/// Room for what an answer computes, and not for that and the keys of all chunks that it has found: these go for it, and what
/// is cached of others stays.
#[test]
fn nothing_is_evicted_for_keys_and_they_make_way() {
    // 20 of the prompt's own and those that are generated take 5 chunks, and keys of 12 chunks as much as 6 exact ones.
    const FREE: usize = 8;
    let steps = 60;
    for backend in all() {
        let (pages, keys) = (PageElement::F16, KeyPath::Materialised);
        let mut engine = open(EngineOptions { pages, keys, ..options(backend) }, 120);
        warm(&mut engine, BUDGET);
        let sequence = fill(&mut engine, FREE);
        let before = found(&mut engine);
        let cached = engine.memory().kv_cached;
        let answer = generate(&mut engine, 3, steps, BUDGET);
        assert_eq!((answer.tokens.len(), answer.reused_tokens), (steps, SHARED));
        println!("{backend:?}: {:?}", answer.keys);
        assert!(answer.keys.materialised > 0 && answer.keys.given_up > 0, "{:?}", answer.keys);
        assert!(engine.memory().kv_cached >= cached, "nothing has gone");
        assert_eq!(found(&mut engine), before);
        engine.close_sequence(sequence).expect("open");
        assert_eq!((engine.memory().kv_in_use, engine.memory().kv_keys), (0, 0));
    }
}
