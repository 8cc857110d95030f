//! The demo model's windows: what is measured was never calibrated on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

use interleaf_calibrate::{Windows, read_windows};
use interleaf_demo_model as demo_model;

/// Tokens that are no coincidence.
const LONG: usize = 64;

fn calibration() -> impl Iterator<Item = (&'static str, Windows)> {
    demo_model::CALIBRATION
        .iter()
        .map(|&(name, bytes)| (name, read_windows(name, bytes, "input_ids").unwrap()))
}

fn evaluation() -> impl Iterator<Item = (String, Windows)> {
    demo_model::EVALUATION.iter().flat_map(|&(setting, bytes)| {
        demo_model::ADAPTERS.iter().map(move |(name, _)| {
            let windows = read_windows(setting, bytes, &format!("{name}/input_ids")).unwrap();
            (format!("{name}, {setting}"), windows)
        })
    })
}

#[test]
fn no_evaluated_window_shares_a_piece_with_one_that_was_calibrated_on() {
    let windows: Vec<(&str, Windows)> = calibration().collect();
    let rows = windows.iter().flat_map(|(_, windows)| &windows.rows);
    let seen: HashSet<&[u32]> = rows.flat_map(|row| row.windows(LONG)).collect();
    assert!(seen.len() > 24_000, "{} pieces", seen.len());
    for (name, windows) in evaluation() {
        for (i, row) in windows.rows.iter().enumerate() {
            let shared = row.windows(LONG).filter(|piece| seen.contains(piece)).count();
            assert_eq!(shared, 0, "{name}: window {i} shares {shared} pieces of {LONG} tokens");
        }
    }
}

#[test]
fn every_adapter_has_windows_of_its_own() {
    let names: Vec<&str> = demo_model::ADAPTERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(calibration().map(|(name, _)| name).collect::<Vec<_>>(), names);
    for (name, windows) in calibration() {
        // Half are of its domain; of one adapter two were left out that share pieces with what is measured.
        assert!((14..=16).contains(&windows.rows.len()), "{name}");
        assert!(windows.rows.iter().all(|row| row.len() == 512 && row[0] == 0), "{name}");
    }
    let length = demo_model::EVALUATION_PARTS.iter().sum::<usize>();
    for (name, windows) in evaluation() {
        assert_eq!(windows.rows.len(), 10, "{name}");
        assert!(windows.rows.iter().all(|row| row.len() == length), "{name}");
    }
}

#[test]
fn files_without_windows_are_refused_by_field() {
    let refused = |bytes: &[u8], tensor: &str| read_windows("x", bytes, tensor).unwrap_err().to_string();
    assert!(refused(b"short", "a").contains("x: the file must be safetensors"));
    let (_, bytes) = demo_model::CALIBRATION[0];
    assert!(refused(bytes, "absent").contains("x: a tensor must be absent, found [\"input_ids\"]"));
}
