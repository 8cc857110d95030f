//! `verify` on every tier, forced as a user forces it.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Command, Output};

use interleaf_cpu::Tier;

fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(path)
}

fn on(tier: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interleaf"));
    command.env("INTERLEAF_CPU", tier).args(args).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `verify` on every tier of this machine, and on those it lacks, where it must say so.
fn verify_on_every_tier(args: &[&str]) {
    for tier in Tier::ALL {
        let output = on(tier.name(), &[&["verify", "--json", "--pages", "f32"], args].concat());
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        match tier.missing() {
            None => {
                assert_eq!(output.status.code(), Some(0), "{tier}: {stdout}{stderr}");
                // The report is of the tier that was asked for, or the run proves nothing.
                assert!(stdout.contains(&format!("cpu ({tier}, ")), "{tier}: {stdout}");
            }
            Some(reason) => {
                assert_eq!(output.status.code(), Some(2), "{tier}: {stdout}{stderr}");
                let said = stdout + &stderr;
                assert!(said.contains(tier.name()) && said.contains(&reason), "{tier}: {said}");
            }
        }
    }
}

#[test]
fn demo_model() {
    let golden = data("tiny-rust-llama-golden");
    verify_on_every_tier(&["--backend", "cpu", "--golden", &golden.to_string_lossy()]);
}

#[test]
fn families() {
    let suite = data("families");
    verify_on_every_tier(&["--backends", "cpu", "--suite", &suite.to_string_lossy()]);
}

/// Against the reference, under the same numerics.
#[test]
fn quantised_weights() {
    let suite = data("families");
    for weights in ["q8", "q4"] {
        for numerics in ["act-q8", "act-f32"] {
            let suite = suite.to_string_lossy();
            verify_on_every_tier(&[
                "--backends",
                "cpu",
                "--suite",
                &suite,
                "--weights",
                weights,
                "--numerics",
                numerics,
            ]);
        }
    }
}

#[test]
fn a_tier_that_does_not_exist_is_refused_by_name() {
    let output = on("sse9", &["generate", "--prompt", "fn", "--max-tokens", "1"]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("sse9") && stderr.contains("avx512") && stderr.contains("neon-i8mm"), "{stderr}");
}
