//! An adapter's first touch of a prefix that the base has in the cache: it is translated for calls that allow what that costs, is
//! never what exact calls read, and is computed once there is time.

use std::ops::ControlFlow;
use std::path::Path;

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kernels_ref::joint_low_rank::{JointMap, predict};
use interleaf_kernels_ref::page_codec::transpose;
use interleaf_kernels_ref::rope::{rope, unrope};
use interleaf_kernels_ref::weight;
use interleaf_runtime::{
    BackendChoice, Calibration, Conversation, Engine, EngineError, EngineOptions, Feed, FirstTouch, Numerics,
    PageElement, RowKind, Store, TRANSLATION_RANK, Want, WeightFormat,
};
use interleaf_tests::tolerance::assert_bits;

use super::calibrated::{ADAPTER, store_with};
use super::lossy::{SHARED, all, answer, divergence, logits, request};
use super::support::{demo, options};

/// More than translating costs by any measure of the calibration's, few as its windows are.
const BUDGET: f32 = 0.5;

/// How far a single prompt's divergence may be above the bound, of 20 tokens whose text is another than the prefix's.
const OF_ONE: f64 = 2.0;

/// Prefixes that it measures.
const MEASURED: [usize; 2] = [96, 208];

fn with_ref() -> Vec<BackendChoice> {
    all().into_iter().chain([BackendChoice::Ref]).collect()
}

fn engine_on(backend: BackendChoice, folder: &tempfile::TempDir) -> Engine {
    let store = Some(folder.path().to_owned());
    let options = EngineOptions { store, pages: PageElement::F16, ..options(backend) };
    let mut engine = demo(&options);
    engine.reserve_kv(4, 512).expect("a small pool");
    engine
}

fn cold(backend: BackendChoice) -> Engine {
    let options = EngineOptions { prefix_cache: false, pages: PageElement::F16, ..options(backend) };
    let mut engine = demo(&options);
    engine.reserve_kv(1, 512).expect("a small pool");
    engine
}

/// Text that the calibration was not fitted to, of so many tokens.
fn text(tokens: usize) -> Vec<u32> {
    let windows = super::calibrated::windows();
    windows.rows[1][..tokens].to_vec()
}

/// The beginning that the base has, and what only the adapter's calls go on with.
fn prompt(own: usize) -> Vec<u32> {
    let windows = super::calibrated::windows();
    [&text(SHARED)[..], &windows.rows[4][16 * own..16 * own + 20]].concat()
}

/// Nothing is cached but what the base answered to.
fn renew(engine: &mut Engine) {
    engine.reserve_kv(4, 512).expect("a small pool");
    answer(engine, &text(SHARED), None, 0.0);
}

fn calibration(folder: &Path, engine: &Engine) -> Calibration {
    let digest = engine.adapters().find(|adapter| adapter.name == ADAPTER).expect("registered").digest;
    let store = Store::new(Some(folder.to_owned()));
    store.calibration(engine.config(), engine.model_digest(), digest).expect("it is kept")
}

/// What the calibration's cheapest way costs within a budget.
fn expected(calibration: &Calibration, prefix: usize, budget: f32) -> FirstTouch {
    let translation = interleaf_runtime::translation(&calibration.touches).expect("it is measured");
    let (computed, drift) = translation.costs(prefix).find(|(_, drift)| *drift <= budget).expect("lawful");
    FirstTouch::Translated { prefix, tokens: (prefix - computed) / CHUNK_TOKENS * CHUNK_TOKENS, drift }
}

#[test]
fn a_prefix_of_the_bases_is_translated_within_a_budget_and_never_for_exact_calls() {
    let folder = store_with(&MEASURED);
    for backend in with_ref() {
        let (mut engine, mut cold) = (engine_on(backend, &folder), cold(backend));
        let calibration = calibration(folder.path(), &engine);
        // Nothing of the base's is there yet.
        let first = answer(&mut engine, &prompt(9), Some(ADAPTER), BUDGET);
        assert_eq!((first.first_touch, first.reused_tokens), (FirstTouch::Nothing, 0));
        renew(&mut engine);
        let exact = answer(&mut engine, &prompt(0), Some(ADAPTER), 0.0);
        assert_eq!((exact.first_touch, exact.reused_tokens, exact.drift), (FirstTouch::Nothing, 0, 0.0));
        renew(&mut engine);
        let wanted = expected(&calibration, SHARED, BUDGET);
        let FirstTouch::Translated { tokens: translated, drift, .. } = wanted else {
            unreachable!("{wanted:?}")
        };
        let tokens = prompt(1);
        let (found, cached) = logits(&mut engine, Some(ADAPTER), &tokens, BUDGET);
        assert_eq!(cached, translated);
        let (exact, _) = logits(&mut cold, Some(ADAPTER), &tokens, 0.0);
        let cost = divergence(&exact, &found, cold.config().vocab_size);
        println!("{backend:?}: {wanted:?} cost {cost:.1e}");
        assert!(cost > 0.0 && cost <= OF_ONE * f64::from(drift), "{cost} of {drift}");
        assert!(engine.memory().kv_maps > 0);

        // Others go on from what is there; exact calls do not.
        let next = answer(&mut engine, &prompt(2), Some(ADAPTER), BUDGET);
        assert_eq!((next.first_touch, next.reused_tokens), (FirstTouch::Nothing, SHARED));
        assert!(next.drift >= drift, "{} and {drift}", next.drift);
        let (found, cached) = logits(&mut engine, Some(ADAPTER), &prompt(3), 0.0);
        assert_eq!(cached, 0);
        let (exact, _) = logits(&mut cold, Some(ADAPTER), &prompt(3), 0.0);
        assert_bits("logits", &exact, &found);
    }
}

#[test]
fn what_is_not_measured_or_costs_too_much_is_computed_and_said() {
    let folder = store_with(&MEASURED);
    let mut engine = engine_on(BackendChoice::Cpu, &folder);
    let calibration = calibration(folder.path(), &engine);
    let translation = interleaf_runtime::translation(&calibration.touches).expect("it is measured");
    let long = text(300);
    answer(&mut engine, &long, None, 0.0);
    let mut touch = |tokens: usize, adapter: &str, drift: f32| {
        let completion = answer(&mut engine, &long[..tokens], Some(adapter), drift);
        (completion.first_touch, completion.reused_tokens)
    };
    let refused = FirstTouch::TooLong { prefix: 288, most: MEASURED[1] };
    assert_eq!(touch(300, ADAPTER, BUDGET), (refused, 0));
    let prefix = 64;
    let least = translation.costs(prefix).map(|(_, drift)| drift).fold(f32::INFINITY, f32::min);
    assert_eq!(touch(70, "book-prose", BUDGET), (FirstTouch::Unmeasured { prefix }, 0));
    let mut fresh = engine_on(BackendChoice::Cpu, &folder);
    answer(&mut fresh, &long, None, 0.0);
    let completion = answer(&mut fresh, &long[..70], Some(ADAPTER), least / 2.0);
    assert_eq!(completion.first_touch, FirstTouch::OverBudget { prefix, drift: least });
    assert_eq!((completion.reused_tokens, completion.drift), (0, 0.0));
}

#[test]
fn it_is_computed_in_idle_time_and_later_turns_are_exact() {
    let folder = store_with(&MEASURED);
    for backend in all() {
        let (mut engine, mut cold) = (engine_on(backend, &folder), cold(backend));
        answer(&mut engine, &text(SHARED), None, 0.0);
        let mut talk = Conversation::default();
        let say = |engine: &mut Engine, talk: &mut Conversation, prompt: &[u32], drift: f32| {
            let request = request(prompt, Some(ADAPTER), drift);
            engine.converse(talk, &request, &mut |_| ControlFlow::Continue(())).expect("it answers")
        };
        let first = say(&mut engine, &mut talk, &prompt(1), BUDGET);
        assert!(matches!(first.first_touch, FirstTouch::Translated { .. }), "{:?}", first.first_touch);
        let context = talk.tokens().to_vec();
        let mut more = context.clone();
        more.extend([5, 6, 7, 8, 9]);

        // From a translated past to an exact turn: nothing of it is read.
        let exact = say(&mut engine, &mut Conversation::default(), &more, 0.0);
        assert_eq!((exact.reused_tokens, exact.drift), (0, 0.0));
        let mut fresh = engine_on(backend, &folder);
        answer(&mut fresh, &text(SHARED), None, 0.0);
        let mut talk = Conversation::default();
        let first = say(&mut fresh, &mut talk, &prompt(1), BUDGET);
        assert!(first.drift > 0.0);

        // A few chunks at a time, until an exact call finds all of them.
        let whole = context.len() / CHUNK_TOKENS * CHUNK_TOKENS;
        let (mut found, mut tended) = (0, 0);
        while found < whole {
            let tokens = fresh.tend(48).expect("it runs");
            assert!(tokens > 0, "{found} of {whole} after {tended}");
            tended += tokens;
            let (sequence, reused) = fresh.resume_sequence(Some(ADAPTER), &more, 0.0).expect("it opens");
            fresh.close_sequence(sequence).expect("open");
            found = reused;
        }
        assert!(tended >= whole, "{tended} of {whole}");
        let again = say(&mut fresh, &mut talk, &more, BUDGET);
        assert_eq!((again.first_touch, again.drift), (FirstTouch::Nothing, 0.0));
        assert!(
            again.reused_tokens >= context.len() / CHUNK_TOKENS * CHUNK_TOKENS,
            "{}",
            again.reused_tokens
        );
        let alone = say(&mut cold, &mut Conversation::default(), &more, 0.0);
        assert_eq!(again.tokens, alone.tokens);
    }
}

#[test]
fn without_its_map_a_prefix_is_computed() {
    let folder = store_with(&MEASURED);
    let mut engine = engine_on(BackendChoice::Cpu, &folder);
    answer(&mut engine, &text(SHARED), None, 0.0);
    // The calibration is taken at the first call, the map at the first touch.
    answer(&mut engine, &[3, 4, 5], Some(ADAPTER), BUDGET);
    std::fs::remove_dir_all(folder.path().join("calibrations")).expect("it is there");
    let completion = answer(&mut engine, &prompt(1), Some(ADAPTER), BUDGET);
    assert_eq!((completion.reused_tokens, completion.drift), (0, 0.0));
    let again = answer(&mut engine, &prompt(2), Some(ADAPTER), BUDGET);
    assert_eq!(again.reused_tokens, SHARED, "what the call before computed");
}

/// Every backend against the definition of the map, on pages in f32.
#[test]
fn translated_pages_are_what_the_map_predicts() {
    let folder = store_with(&[]);
    let tokens = text(70);
    for backend in with_ref() {
        // Else the map's factors are in 8 bits.
        let numerics = Numerics::ActF32;
        let mut engine = demo(&EngineOptions { prefix_cache: false, numerics, ..options(backend) });
        engine.reserve_kv(2, 128).expect("a small pool");
        let joint = calibration(folder.path(), &engine).joint.expect("a small model");
        let base = engine.open_sequence(None, &tokens).expect("room");
        let feed = Feed { sequence: base, tokens: &tokens, kind: RowKind::Prompt, want: Want::Nothing };
        engine.feed(&[feed]).expect("it runs");
        let config = engine.config().clone();
        let (layers, width, heads) = (config.layers, config.kv_heads * config.head_dim, config.kv_heads);
        let before: Vec<_> = (0..layers).map(|layer| engine.read_kv(base, layer).expect("open")).collect();
        let map = engine.create_map(ADAPTER, &joint).expect("room");
        // All but the first token and the last ones.
        let range = 1..61;
        engine.translate_tokens(base, &tokens, range.clone(), &map).expect("it runs");

        let positions: Vec<u32> = (0..tokens.len() as u32).collect();
        let by_token = |values: &[f32]| transpose(values, heads, tokens.len());
        let unturned: Vec<[Vec<f32>; 2]> = before
            .iter()
            .enumerate()
            .map(|(layer, (keys, values))| {
                let mut keys = by_token(keys);
                if let Some(rope) = config.layer_kinds[layer].rope {
                    unrope(&mut keys, config.head_dim, &positions, &config.ropes[rope].table(tokens.len()));
                }
                [keys, by_token(values)]
            })
            .collect();
        let embedding = engine.model().embedding(WeightFormat::Stored).expect("it has one");
        let mut x = Vec::new();
        for (token, id) in tokens.iter().enumerate() {
            let at = token * width..(token + 1) * width;
            unturned.iter().flatten().for_each(|half| x.extend_from_slice(&half[at.clone()]));
            let mut embedded = vec![0.0; config.hidden_size];
            weight::decode_row(&embedding, *id as usize, &mut embedded);
            x.extend(embedded);
            x.push(1.0);
        }
        let scales = &joint.scales;
        let of = JointMap { down: &joint.down, up: &joint.up, rank: joint.rank(), scales };
        let differences = predict(&of, TRANSLATION_RANK, &x);
        for layer in 0..layers {
            let (keys, values) = engine.read_kv(base, layer).expect("open");
            for (half, found) in [by_token(&keys), by_token(&values)].iter().enumerate() {
                let old = by_token([&before[layer].0, &before[layer].1][half]);
                let mut expected = unturned[layer][half].clone();
                for token in range.clone() {
                    let first = token * 2 * layers * width + (2 * layer + half) * width;
                    let own = &differences[first..first + width];
                    expected[token * width..][..width].iter_mut().zip(own).for_each(|(e, d)| *e += d);
                }
                if let Some(turn) = config.layer_kinds[layer].rope.filter(|_| half == 0) {
                    rope(&mut expected, config.head_dim, &positions, &config.ropes[turn].table(tokens.len()));
                }
                for token in 0..tokens.len() {
                    let at = token * width..(token + 1) * width;
                    if !range.contains(&token) {
                        assert_bits("a token beside them", &old[at.clone()], &found[at]);
                        continue;
                    }
                    // The map's numbers are halves, whose scale is rounded in once more; the difference itself is small.
                    let changed = distance(&expected[at.clone()], &old[at.clone()]);
                    let off = distance(&expected[at.clone()], &found[at.clone()]);
                    let size = distance(&expected[at], &vec![0.0; width]);
                    assert!(
                        off <= 2e-3 * changed + 1e-5 * size,
                        "{backend:?} layer {layer}: {off} of {changed}"
                    );
                }
            }
        }
        engine.drop_map(map).expect("it is known");
    }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

/// Any tokens computed again among the others are what a prefill leaves.
#[test]
fn missing_tokens_are_computed_again_where_they_are() {
    let tokens = text(150);
    // At random, few, about half and most; then whole chunks, single tokens, the first and the last.
    let at_random = |seed: usize, eighths: u64| -> Vec<usize> {
        let is_missing = |position: &usize| {
            let mixed = ((150 * seed + position) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 61 < eighths
        };
        (0..150).filter(is_missing).collect()
    };
    let sets: [Vec<usize>; 8] = [
        at_random(0, 4),
        at_random(1, 1),
        at_random(2, 7),
        at_random(3, 4),
        (16..32).chain(80..112).collect(),
        (0..150).collect(),
        (0..150).filter(|position| position % 7 == 3).collect(),
        vec![0, 15, 16, 149],
    ];
    for backend in with_ref() {
        // Pieces smaller than what is missing, and larger; where a step is slow, one of each kind.
        let is_cpu = backend == BackendChoice::Cpu;
        for prefill_rows in if is_cpu { vec![8, 128] } else { vec![24] } {
            let options = EngineOptions { prefix_cache: false, prefill_rows, ..options(backend) };
            let mut engine = demo(&options);
            engine.reserve_kv(1, 160).expect("a small pool");
            for adapter in [None, Some(ADAPTER)].into_iter().skip(usize::from(!is_cpu)) {
                let sequence = engine.open_sequence(adapter, &tokens).expect("room");
                for piece in tokens.chunks(64) {
                    let feed = Feed { sequence, tokens: piece, kind: RowKind::Prompt, want: Want::Nothing };
                    engine.feed(&[feed]).expect("it runs");
                }
                let layers = engine.config().layers;
                let read = |engine: &mut Engine| -> Vec<(Vec<f32>, Vec<f32>)> {
                    (0..layers).map(|layer| engine.read_kv(sequence, layer).expect("open")).collect()
                };
                let full = read(&mut engine);
                // Where a step is slow, the first ones.
                for missing in sets.iter().take(if is_cpu { sets.len() } else { 3 }) {
                    lose(&mut engine, sequence, &full, missing, tokens.len());
                    engine.recompute(sequence, &tokens, missing).expect("it runs");
                    for (expected, found) in full.iter().zip(read(&mut engine)) {
                        assert_bits("keys", &expected.0, &found.0);
                        assert_bits("values", &expected.1, &found.1);
                    }
                }
                let outside = engine.recompute(sequence, &tokens, &[3, 150]);
                assert!(matches!(outside, Err(EngineError::NoSuchPosition { position: 150, tokens: 150 })));
                assert!(engine.recompute(sequence, &tokens, &[4, 3]).is_err());
                engine.close_sequence(sequence).expect("open");
            }
        }
    }
}

/// Puts what nobody computed in the place of some tokens.
fn lose(
    engine: &mut Engine,
    sequence: interleaf_runtime::SequenceHandle,
    full: &[(Vec<f32>, Vec<f32>)],
    missing: &[usize],
    tokens: usize,
) {
    let dim = engine.config().head_dim;
    for (layer, (keys, values)) in full.iter().enumerate() {
        let [keys, values] = [keys, values].map(|all| {
            let mut all = all.clone();
            let heads = all.len() / dim / tokens;
            for (head, &position) in (0..heads).flat_map(|head| missing.iter().map(move |p| (head, p))) {
                all[(head * tokens + position) * dim..][..dim].fill(1e3);
            }
            all
        });
        engine.write_kv(sequence, layer, &keys, &values).expect("its own pages");
    }
}
