//! Calls that allow a loss under an adapter whose calibration is in the store: its pages take the forms of its ladder.

use std::path::PathBuf;

use interleaf_calibrate::{Windows, calibrate, read_windows};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{BackendChoice, Engine, EngineOptions, PageElement, Store};
use interleaf_tests::tolerance::assert_bits;

use super::lossy::{BUDGET, SHARED, all, answer, divergence, logits};
use super::support::{demo, options};

pub(super) const ADAPTER: &str = "rust-code";

fn engine(backend: BackendChoice, store: Option<PathBuf>) -> Engine {
    let options = EngineOptions { pages: PageElement::F16, store, ..options(backend) };
    let mut engine = demo(&options);
    engine.reserve_kv(8, 512).expect("a small pool");
    engine
}

/// Text of what the adapter is for.
pub(super) fn windows() -> Windows {
    let all = demo_model::CALIBRATION.iter().find(|(name, _)| *name == ADAPTER).expect("it has windows");
    read_windows(ADAPTER, all.1, "input_ids").expect("windows")
}

/// A prompt of text like what was calibrated on, and none of it; from the shared tokens on each has its own.
pub(super) fn prompt(own: u32) -> Vec<u32> {
    let row = &windows().rows[1];
    let first = SHARED + OWN * own as usize;
    // No two prompts share a token more.
    row[..SHARED].iter().copied().chain([300 + own]).chain(row[first..first + OWN].iter().copied()).collect()
}

/// Tokens of a prompt behind those that it shares.
const OWN: usize = 14;

/// A store with a calibration from a few windows, every third from the first on.
pub(super) fn store() -> tempfile::TempDir {
    store_with(&[])
}

/// The same, with translations of some prefixes measured.
pub(super) fn store_with(prefixes: &[usize]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let options = EngineOptions { prefix_cache: false, ..options(BackendChoice::Cpu) };
    let mut engine = demo(&options);
    engine.reserve_kv(2, 384).expect("a small pool");
    let windows = windows();
    let rows = windows.rows.iter().step_by(3).map(|row| row[..256].to_vec()).collect();
    let windows = Windows { rows, ..windows };
    let digest = engine.adapters().find(|adapter| adapter.name == ADAPTER).expect("registered").digest;
    let calibration =
        calibrate(&mut engine, ADAPTER, digest, &windows, prefixes, &mut |_| ()).expect("it calibrates");
    let rungs = &calibration.ladder.rungs;
    assert!(rungs.len() > 3 && rungs.windows(2).all(|pair| pair[1].kl < pair[0].kl), "{rungs:?}");
    let store = Store::new(Some(folder.path().to_owned()));
    store.keep_calibration(&calibration).expect("room on the disk");
    folder
}

#[test]
fn pages_take_the_forms_of_the_adapters_ladder() {
    let folder = store();
    for backend in all() {
        let (mut cold, mut plain) = (engine(backend, None), engine(backend, None));
        let mut lossy = engine(backend, Some(folder.path().to_owned()));
        for engine in [&mut plain, &mut lossy] {
            warm(engine);
        }
        // A calibrated form is smaller, and holds coefficients.
        let (more, less) = (plain.memory().kv_cached, lossy.memory().kv_cached);
        println!("{backend:?}: {more} bytes uncalibrated, {less} calibrated: {:?}", lossy.kv_by_codec());
        assert!(less < more, "{less} against {more}");
        assert!(lossy.kv_by_codec().iter().any(|(codec, _)| codec.starts_with("low-rank")));
        holds(&mut lossy, &mut cold, 1);
        // Another pool has other tables and other constants.
        lossy.reserve_kv(4, 1024).expect("a larger pool");
        warm(&mut lossy);
        holds(&mut lossy, &mut cold, 11);
    }
}

fn warm(engine: &mut Engine) {
    for adapter in [None, Some(ADAPTER)] {
        answer(engine, &prompt(0), adapter, BUDGET);
    }
}

/// Prompts over which a divergence is averaged: a budget is one of means, and few tokens of each go on from what is shared.
const PROMPTS: u32 = 8;

/// How far a single prompt's may be above the budget, of 15 tokens the first of which is no word of the text.
const OF_ONE: f64 = 2.0;

/// What is read is within the budget, and exact calls read none of it.
fn holds(lossy: &mut Engine, cold: &mut Engine, own: u32) {
    let mut mean = 0.0;
    for own in own..own + PROMPTS {
        let tokens = prompt(own);
        let (expected, _) = logits(cold, Some(ADAPTER), &tokens, 0.0);
        let (found, cached) = logits(lossy, Some(ADAPTER), &tokens, BUDGET);
        assert_eq!(cached, SHARED);
        let cost = divergence(&expected, &found, cold.config().vocab_size);
        println!("divergence {cost:.1e}");
        assert!(cost > 0.0 && cost <= OF_ONE * f64::from(BUDGET), "prompt {own}: {cost}");
        mean += cost / f64::from(PROMPTS);
    }
    assert!(mean <= f64::from(BUDGET), "{mean}");
    let own = own + PROMPTS;
    let completion = answer(lossy, &prompt(own), Some(ADAPTER), BUDGET);
    assert!(completion.drift > 0.0 && completion.drift <= BUDGET, "{}", completion.drift);
    let (exact, cached) = logits(lossy, Some(ADAPTER), &prompt(own + 1), 0.0);
    assert_eq!(cached, 0);
    let (expected, _) = logits(cold, Some(ADAPTER), &prompt(own + 1), 0.0);
    assert_bits("logits", &expected, &exact);
}
