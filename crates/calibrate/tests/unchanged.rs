//! Adapters that change nothing of what they are calibrated on: one that adds nothing, and one that is not invoked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use interleaf_calibrate::{Windows, calibrate, read_windows};
use interleaf_demo_model as demo_model;
use interleaf_model::{Calibration, Source};
use interleaf_runtime::PageElement;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

const CONFIG: &str = "adapter_config.json";
const FACTORS: &str = "adapter_model.safetensors";

/// Two tokens that are nowhere one behind the other.
const INVOCATION: [u32; 2] = [3, 4];

fn file(name: &str) -> &'static [u8] {
    let (_, files) = demo_model::ADAPTERS.iter().find(|(name, _)| *name == "cargo-toml").unwrap();
    files.iter().find(|(file, _)| *file == name).unwrap().1
}

fn source(config: Vec<u8>, factors: Vec<u8>) -> Source {
    let files: Vec<(&str, &[u8])> = vec![(CONFIG, config.leak()), (FACTORS, factors.leak())];
    Source::Embedded { name: "adapter", files: files.leak() }
}

/// Whose second factors are zeros.
fn adding_nothing() -> Source {
    let file_of = SafeTensors::deserialize(file(FACTORS)).unwrap();
    let zeros = vec![0u8; file(FACTORS).len()];
    let tensors = file_of.iter().map(|(name, view)| {
        let bytes = if name.contains("lora_B") { &zeros[..view.data().len()] } else { view.data() };
        (name, TensorView::new(view.dtype(), view.shape().into(), bytes).unwrap())
    });
    source(file(CONFIG).into(), safetensors::serialize(tensors, None).unwrap())
}

fn invoked() -> Source {
    let mut config: serde_json::Value = serde_json::from_slice(file(CONFIG)).unwrap();
    config["alora_invocation_tokens"] = INVOCATION.as_slice().into();
    source(config.to_string().into_bytes(), file(FACTORS).into())
}

fn windows() -> Windows {
    let (_, bytes) = demo_model::CALIBRATION.iter().find(|(name, _)| *name == "cargo-toml").unwrap();
    let mut windows = read_windows("windows", bytes, "input_ids").unwrap();
    windows.rows.truncate(3);
    windows.rows.iter_mut().for_each(|row| row.truncate(96));
    windows
}

/// A calibration as it comes back from its file.
fn calibrated(adapter: &Source, windows: &Windows) -> Calibration {
    let mut engine = common::engine(PageElement::F32, None);
    let digest = engine.register_adapter("adapter", adapter).unwrap().digest;
    engine.reserve_kv(2, 96).unwrap();
    let written = calibrate(&mut engine, "adapter", digest, windows, &[], &mut |_| ()).unwrap();
    let files: Vec<(&str, &[u8])> = vec![("c", written.to_bytes().unwrap().leak())];
    let file = Source::Embedded { name: "calibration", files: files.leak() };
    let read = Calibration::read(&file, "c", engine.config(), engine.model_digest(), digest).unwrap();
    assert_eq!(read.ladder, written.ladder);
    read
}

/// The base's pages stand for all of its, which costs nothing.
fn is_the_bases(calibration: &Calibration) {
    let Calibration { ladder, rest, .. } = calibration;
    assert!(ladder.costs_nothing() && rest.is_empty(), "{ladder:?}");
    let [rung] = ladder.rungs.as_slice() else { panic!("{ladder:?}") };
    assert!(rung.layers.iter().flatten().all(Option::is_none), "{rung:?}");
    // The base's are rounded to f16 where they stand for another's.
    assert!(rung.bound > 0.0 && rung.bound < 1e-7, "{rung:?}");
}

#[test]
fn an_adapter_that_adds_nothing_has_the_bases_pages() {
    is_the_bases(&calibrated(&adding_nothing(), &windows()));
}

#[test]
fn an_activated_adapter_is_calibrated_where_it_is_invoked() {
    assert!(windows().rows.iter().all(|row| row.windows(2).all(|tokens| tokens != INVOCATION)));
    is_the_bases(&calibrated(&invoked(), &windows()));
    let calibration = calibrated(&invoked(), &windows().invoking(&INVOCATION));
    assert!(!calibration.ladder.costs_nothing() && calibration.ladder.rungs.len() > 4);
    assert!(calibration.made_from.text.ends_with("the adapter's invocation put into 3 windows of it"));
}
