//! Whether drift budgets are true: of adapters that differ much and little, each calibrated, over texts that nothing was fitted
//! to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use interleaf_calibrate::{Budgets, Held, Reader, Shared, Windows, calibrate, hold, read_windows};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{Engine, PageElement, Source, Store};

/// Of the demo model's the one that differs most, the one that differs least, and one between them.
const ADAPTERS: [&str; 3] = ["api-docs", "cargo-toml", "book-prose"];

const BUDGETS: [f32; 2] = [3e-4, 1e-3];

/// Tokens of a window that is calibrated on.
const WINDOW: usize = 240;

const PREFIX: usize = 256;
const CONTINUATION: usize = 96;

/// With the adapters.
fn engine(pages: PageElement, store: Option<PathBuf>) -> Engine {
    let mut engine = common::engine(pages, store);
    for (name, files) in demo_model::ADAPTERS.iter().filter(|(name, _)| ADAPTERS.contains(name)) {
        engine.register_adapter(name, &Source::Embedded { name, files }).unwrap();
    }
    engine
}

/// Keeps a calibration of each from a few short windows.
fn calibrate_all(store: &Path) {
    let mut engine = engine(PageElement::F32, None);
    engine.reserve_kv(2, WINDOW).unwrap();
    for name in ADAPTERS {
        let (_, bytes) = demo_model::CALIBRATION.iter().find(|(of, _)| *of == name).unwrap();
        let all = read_windows(name, bytes, "input_ids").unwrap();
        let rows = all.rows.iter().step_by(4).map(|row| row[..WINDOW].to_vec()).collect();
        let digest = engine.adapters().find(|adapter| adapter.name == name).unwrap().digest;
        let windows = Windows { rows, ..all };
        let calibration = calibrate(&mut engine, name, digest, &windows, &[], &mut |_| ()).unwrap();
        Store::new(Some(store.to_owned())).keep_calibration(&calibration).unwrap().unwrap();
    }
}

/// What comes after a prefix in each setting, twice each.
fn texts(name: &str) -> Vec<Shared> {
    let of = |(setting, bytes): &(&str, &[u8])| {
        let rows = read_windows(setting, bytes, &format!("{name}/input_ids")).unwrap().rows;
        rows.into_iter().take(2).map(|row| {
            let (prefix, next) = row.split_at(PREFIX);
            let reader = Reader { adapter: name.into(), continuation: next[..CONTINUATION].to_vec() };
            Shared { prefix: prefix.to_vec(), readers: vec![reader] }
        })
    };
    demo_model::EVALUATION.iter().flat_map(of).collect()
}

#[test]
fn budgets_are_true_of_several_adapters() {
    let folder = tempfile::tempdir().unwrap();
    calibrate_all(folder.path());
    let mut known = engine(PageElement::F16, Some(folder.path().to_owned()));
    let mut unknown = engine(PageElement::F16, None);
    let budgets = BUDGETS.map(|budget| Budgets { base: budget, adapters: budget, is_idle: false });
    for name in ADAPTERS {
        let mut all = Vec::new();
        for shared in texts(name) {
            let calls = hold(&mut known, &shared, &budgets, &mut || ()).unwrap();
            let of = |(budget, held): (&f32, &Held)| is_kept(name, *budget, held);
            all.push(BUDGETS.iter().zip(&calls).map(of).collect::<Vec<u64>>());
        }
        // They are not kept by losing nothing: what is known of an adapter saves, and so does a larger budget.
        let plain = hold(&mut unknown, &texts(name)[0], &budgets[..1], &mut || ()).unwrap();
        let plain = is_kept(name, BUDGETS[0], &plain[0]);
        assert!(all[0][0] < plain, "{name}: {all:?} against {plain}");
        assert!(all.iter().all(|bytes| bytes[1] < bytes[0]), "{name}: {all:?}");
    }
}

/// Checks a call, and returns the bytes of its adapter's pages.
fn is_kept(name: &str, budget: f32, held: &Held) -> u64 {
    let outcome = &held.readers[0];
    let (lost, said) = (outcome.kl_mean(), outcome.estimated);
    println!("{name}, {budget:.0e}: {lost:.2e} lost, {said:.2e} said, {} bytes", outcome.bytes);
    assert!(
        lost > 0.0 && lost <= said && said <= f64::from(budget),
        "{name}, {budget:e}: {lost:e}, {said:e}"
    );
    outcome.bytes
}
