//! The demo model against a study of it that was written separately, in Python: its bases, and its rows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use interleaf_calibrate::{
    Anchor, Codec, Measured, Parts, Products, Subject, calibrate, measure, read_windows,
};
use interleaf_demo_model as demo_model;
use interleaf_model::{Calibration, Digest, HalfCalibration, PeftAdapter};
use interleaf_runtime::{Engine, PageElement, Source};
use safetensors::SafeTensors;
use serde_json::Value;

const ADAPTER: &str = "error-codes";
const WIDTH: usize = 128;

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kv").join(file)
}

fn engine() -> (Engine, Digest) {
    let mut engine = common::engine(PageElement::F32, None);
    let adapter = engine.register_adapter(ADAPTER, &source()).unwrap();
    engine.reserve_kv(2, demo_model::EVALUATION_PARTS.iter().sum()).unwrap();
    (engine, adapter.digest)
}

fn source() -> Source {
    let (name, files) = demo_model::ADAPTERS.iter().find(|(name, _)| *name == ADAPTER).unwrap();
    Source::Embedded { name, files }
}

fn calibrated(engine: &mut Engine, digest: Digest) -> Calibration {
    let (_, bytes) = demo_model::CALIBRATION.iter().find(|(name, _)| *name == ADAPTER).unwrap();
    let windows = read_windows(ADAPTER, bytes, "input_ids").unwrap();
    calibrate(engine, ADAPTER, digest, &windows, &[], &mut |_| ()).unwrap()
}

/// Means and bases, `(layer, half, …)`.
fn study_bases() -> [Vec<f32>; 2] {
    let bytes = std::fs::read(data("bases.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    ["mu", "basis"].map(|name| {
        let view = file.tensor(&format!("{ADAPTER}/{name}")).unwrap();
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    })
}

#[test]
fn bases_and_rows_are_those_of_the_study() {
    let (mut engine, digest) = engine();
    let calibration = calibrated(&mut engine, digest);
    check_bases(&calibration);
    check_rows(&mut engine, &calibration);
    check_rows_over_8_bits(&mut engine);
}

fn check_bases(calibration: &Calibration) {
    let [means, bases] = study_bases();
    for (i, layer) in calibration.layers.iter().enumerate() {
        for (half, HalfCalibration { mean, basis, .. }) in [&layer.k, &layer.v].into_iter().enumerate() {
            let at = 2 * i + half;
            let study = &means[at * WIDTH..(at + 1) * WIDTH];
            // The study also fitted to the two windows that are held back here.
            let off: f32 = mean.iter().zip(study).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f32 = study.iter().map(|v| v * v).sum();
            assert!(off <= 0.05 * size, "layer {i}, half {half}: the mean is off by {off} of {size}");
            // How much of the first eight directions lies in the study's first eight: of 8 at most 8.
            let rows = |all: &[f32]| all.chunks_exact(WIDTH).take(8).map(<[f32]>::to_vec).collect::<Vec<_>>();
            let study = rows(&bases[at * 32 * WIDTH..]);
            let shared: f32 = rows(&basis.rows)
                .iter()
                .flat_map(|a| {
                    study.iter().map(move |b| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>().powi(2))
                })
                .sum();
            assert!(shared > 7.5, "layer {i}, half {half}: {shared} of 8 directions are shared");
        }
    }
}

/// The mean divergence in the study's row of a codec, same document.
fn study_kl(row: &str) -> f64 {
    let rows: Value = serde_json::from_slice(&std::fs::read(data("kv_rows.json")).unwrap()).unwrap();
    let keys = rows["keys"].as_array().unwrap();
    let at = keys.iter().position(|key| key[0] == ADAPTER && key[1] == "same document").unwrap();
    rows["rows"][row]["kl"][at].as_f64().unwrap()
}

/// Measures rows of the study and holds the divergences to its own, each within a factor.
fn check(engine: &mut Engine, subject: Subject<'_>, rows: &[(&str, &str, f64)]) -> Vec<Measured> {
    let codecs: Vec<Codec> = rows.iter().map(|(codec, ..)| codec.parse().unwrap()).collect();
    let [prefix, continuation] = demo_model::EVALUATION_PARTS;
    let (setting, bytes) = demo_model::EVALUATION[0];
    let windows = read_windows(setting, bytes, &format!("{ADAPTER}/input_ids")).unwrap();
    let parts = Parts { prefix, continuation };
    let measured = measure(engine, subject, &windows, parts, &codecs, &mut || ()).unwrap();
    for (measured, (codec, row, factor)) in measured.iter().zip(rows) {
        let (found, study) = (measured.divergence.mean(), study_kl(row));
        let ratio = found / study;
        assert!(ratio < *factor && ratio > 1.0 / factor, "{codec}: {found:.3e}, the study has {study:.3e}");
    }
    measured
}

/// Differences from what a base in 8 bits decodes to.
fn check_rows_over_8_bits(engine: &mut Engine) {
    let rows = [
        ("base", "shared base in int8, nothing added", 1.01),
        ("delta-4", "shared base in int8 + delta int4 against it", 1.1),
        ("delta-2", "shared base in int8 + delta int2 against it", 1.02),
    ];
    let subject = Subject { adapter: ADAPTER, calibration: None, products: None, anchor: Anchor::Q8 };
    for measured in check(engine, subject, &rows) {
        // 12 matrices of 128 channels: a code each, and scales by the token and head, or by the page.
        assert_eq!(measured.base_bytes_per_token, 1614.0);
    }
}

fn check_rows(engine: &mut Engine, calibration: &Calibration) {
    let rows = [
        ("base", "base cache, nothing added", 1.01),
        ("delta-4", "base + delta int4, groups of 32 channels", 1.1),
        ("delta-2", "base + delta int2, groups of 32 channels", 1.02),
        ("low-rank-16-int8", "base + delta in a calibrated basis, rank 16, int8 coefficients", 1.15),
        ("own-products", "base + the adapter's own low-rank products (A x), as ForkKV", 1.05),
        ("q4-grouped", "own cache quantized int4 (no sharing)", 1.05),
        ("q2-grouped", "own cache quantized int2 (no sharing)", 1.05),
        ("low-rank-16-int4", "base + delta in a calibrated basis, rank 16, int4 coefficients", 1.3),
        ("low-rank-32-int8", "base + delta in a calibrated basis, rank 32, int8 coefficients", 1.15),
        ("low-rank-32-int4", "base + delta in a calibrated basis, rank 32, int4 coefficients", 1.15),
        ("predicted", "base + linear prediction from the base cache, full rank", 1.15),
        ("predicted+16-int4", "linear prediction + residual rank 16 int4", 1.3),
    ];
    let peft = PeftAdapter::open(ADAPTER, &source(), engine.model()).unwrap();
    let products = Products::new(engine.model(), &peft).unwrap();
    let subject = Subject { products: Some(&products), ..Subject::calibrated(ADAPTER, calibration) };
    let measured = check(engine, subject, &rows);
    let find = |name: &str| measured.iter().find(|m: &&Measured| m.codec.to_string() == name).unwrap();
    assert_eq!(find("base").bytes_per_token, 0.0);
    // 12 matrices of 128 channels: codes of 4 bits, and a scale for each 32.
    assert_eq!(find("delta-4").bytes_per_token, 12.0 * (64.0 + 8.0));
    assert_eq!(find("low-rank-16-int8").bytes_per_token, 12.0 * (16.0 + 2.0));
    // Of its keys and values 8 coefficients each, of 2 bytes.
    let own = find("own-products");
    assert_eq!(own.bytes_per_token, 12.0 * 8.0 * 2.0);
    // Nothing below the first layer is under the adapter: there its products are all that it adds.
    assert!(own.errors[0].iter().all(|error| *error < 1e-3), "{:?}", own.errors);
    assert!(own.errors[1].iter().all(|error| *error > 1e-2), "{:?}", own.errors);
    // The study has 0.630 of the difference left.
    assert!((own.error_left - 0.630).abs() < 0.01, "{}", own.error_left);
    // The held-out tokens are predicted as the study's own program did.
    assert!((find("base").divergence.nll[1] - 2.382_381).abs() < 1e-4, "{:?}", find("base").divergence.nll);
}
