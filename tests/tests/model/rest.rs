//! Calls that allow a loss under an engine whose caches go to rest in idle time: what comes back is within the budget, whoever
//! came between, and exact calls never notice.

use std::path::{Path, PathBuf};

use interleaf_calibrate::read_windows;
use interleaf_demo_model as demo_model;
use interleaf_runtime::{BackendChoice, Engine, EngineOptions, PageElement};
use interleaf_tests::tolerance::assert_bits;

use super::calibrated::{ADAPTER, store};
use super::lossy::{BUDGET, SHARED, all, answer, divergence, logits};
use super::support::{demo, options};

fn engine(backend: BackendChoice, store: Option<PathBuf>) -> Engine {
    let at_rest = store.is_some();
    engine_with(EngineOptions { at_rest, store, ..options(backend) })
}

/// One that finds nothing.
fn cold(backend: BackendChoice) -> Engine {
    engine_with(EngineOptions { prefix_cache: false, ..options(backend) })
}

fn engine_with(options: EngineOptions) -> Engine {
    let options = EngineOptions { pages: PageElement::F16, ..options };
    let mut engine = demo(&options);
    engine.reserve_kv(3, 256).expect("a small pool");
    engine
}

/// The base and the adapter answer, and there is time after that.
fn rested(engine: &mut Engine) {
    for adapter in [None, Some(ADAPTER)] {
        answer(engine, &prompt(4), adapter, BUDGET);
    }
    idle(engine);
}

fn idle(engine: &mut Engine) {
    while engine.tend(64).expect("it runs") > 0 {}
}

/// The beginning that all have in common, and a text that goes on from it: windows of the adapter's that its calibration was
/// not fitted to.
fn prompt(own: usize) -> Vec<u32> {
    let all = demo_model::CALIBRATION.iter().find(|(name, _)| *name == ADAPTER).expect("it has windows");
    let rows = read_windows(ADAPTER, all.1, "input_ids").expect("windows").rows;
    [&rows[1][..SHARED], &rows[1 + 3 * own][SHARED..SHARED + 40]].concat()
}

/// How much is found, and what that costs.
fn found(engine: &mut Engine, cold: &mut Engine, own: usize) -> (usize, f64) {
    let tokens = prompt(own);
    let (expected, _) = logits(cold, Some(ADAPTER), &tokens, 0.0);
    let (found, cached) = logits(engine, Some(ADAPTER), &tokens, BUDGET);
    let cost = divergence(&expected, &found, cold.config().vocab_size);
    println!("{:?}: {cost:.1e} of {BUDGET:.0e}", engine.backend().name);
    assert_eq!(cost > 0.0, cached > 0, "{cost}");
    (cached, cost)
}

fn calibrations(store: &Path) -> PathBuf {
    store.join("calibrations")
}

#[test]
fn a_cache_at_rest_comes_back_within_its_budget() {
    let folder = store();
    for backend in all().into_iter().chain([BackendChoice::Ref]) {
        let (mut cold, mut plain) = (cold(backend), engine(backend, None));
        let mut resting = engine(backend, Some(folder.path().to_owned()));
        rested(&mut plain);
        rested(&mut resting);
        let (more, less) = (plain.memory(), resting.memory());
        println!(
            "{backend:?}: {} bytes, {} with {} at rest",
            more.kv_cached, less.kv_cached, less.kv_at_rest
        );
        assert!(more.kv_at_rest == 0 && less.kv_at_rest > 0 && less.kv_cached < more.kv_cached);
        let by_codec = resting.kv_by_codec();
        assert!(by_codec.iter().any(|(codec, _)| codec.starts_with("joint+")), "{by_codec:?}");
        let mut costs = Vec::new();
        let mut holds = |resting: &mut Engine, cold: &mut Engine, own| {
            let (cached, cost) = found(resting, cold, own);
            assert_eq!(cached, SHARED);
            costs.push(cost);
        };
        holds(&mut resting, &mut cold, 0);
        assert_eq!(resting.memory().kv_at_rest, less.kv_at_rest, "it is at rest again");

        let completion = answer(&mut resting, &prompt(4), Some(ADAPTER), BUDGET);
        assert!(completion.drift > 0.0 && completion.drift <= BUDGET, "{}", completion.drift);
        assert!(completion.reused_tokens >= SHARED);

        // Others take all the room that there is, and who comes back still finds it.
        for other in 1..4 {
            let mut tokens = prompt(other);
            tokens[..SHARED].rotate_left(other);
            logits(&mut resting, Some("error-codes"), &tokens, 0.0);
            holds(&mut resting, &mut cold, other);
        }
        // A budget is of the mean.
        assert!(costs.iter().sum::<f64>() <= costs.len() as f64 * f64::from(BUDGET), "{costs:?}");
        let (exact, cached) = logits(&mut resting, Some(ADAPTER), &prompt(4), 0.0);
        assert_eq!(cached, 0, "an exact call reads nothing of it");
        assert_bits("logits", &logits(&mut cold, Some(ADAPTER), &prompt(4), 0.0).0, &exact);
    }
}

/// It is decoded with what is in the store, and computed again where that is gone or another.
#[test]
fn without_what_it_is_decoded_with_it_is_computed_again() {
    let folder = store();
    let (mut cold, mut resting) =
        (cold(BackendChoice::Cpu), engine(BackendChoice::Cpu, Some(folder.path().to_owned())));
    rested(&mut resting);
    assert!(resting.memory().kv_at_rest > 0);
    std::fs::remove_dir_all(calibrations(folder.path())).expect("it is there");
    // Some chunks may have been refused, and be in another form.
    assert!(found(&mut resting, &mut cold, 1).0 < SHARED);
    assert_eq!(resting.memory().kv_at_rest, 0);
    // Nor does anything go to rest any more.
    idle(&mut resting);
    assert_eq!(resting.memory().kv_at_rest, 0);
    assert_eq!(found(&mut resting, &mut cold, 2).0, SHARED);
}

#[test]
fn without_a_calibration_nothing_rests() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = engine(BackendChoice::Cpu, Some(folder.path().to_owned()));
    rested(&mut engine);
    assert_eq!(engine.memory().kv_at_rest, 0);
    assert!(engine.memory().kv_encoded > 0, "it is encoded otherwise");
}
