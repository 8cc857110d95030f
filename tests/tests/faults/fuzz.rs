//! The fuzz targets on any compiler: sound files changed in ways that random bytes seldom find, and every
//! input that was ever found to do harm.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use interleaf_tests::fuzz::{MEMORY_LIMIT, TARGETS, Target, corpus};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::measure::{alone, measure};
use crate::mutate::{Mutation, apply};

/// Inputs for each target.
const CASES: u32 = 4000;

/// Far above what any input takes, so that only work without bounds exceeds it on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The inputs of a folder, by name.
fn inputs(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut all: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("a readable folder");
            let bytes = std::fs::read(entry.path()).expect("a readable file");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    all.sort();
    all
}

/// Reads an input within the bounds; tells how many readers accepted it.
fn read(target: &Target, bytes: &[u8]) -> usize {
    let (accepted, held, time) = measure(|| (target.read)(bytes));
    assert!(held <= MEMORY_LIMIT, "{}: {} bytes of input, {held} bytes held", target.name, bytes.len());
    assert!(time <= TIME_LIMIT, "{}: {} bytes of input, {time:?}", target.name, bytes.len());
    accepted
}

/// Mutations of every seed of a target.
fn mutations_are_survived(name: &str) {
    let target = TARGETS.into_iter().find(|target| target.name == name).expect("a target");
    let seeds: Vec<Vec<u8>> = inputs(&corpus().join(name)).into_iter().map(|(_, bytes)| bytes).collect();
    let _alone = alone();
    // Failures are kept as files in `regressions`, under names of their own.
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let strategy = (0..seeds.len(), proptest::collection::vec(any::<Mutation>(), 0..4));
    let (accepted, refused) = (Cell::new(0), Cell::new(0));
    let outcome = TestRunner::new(config).run(&strategy, |(seed, mutations)| {
        let input = apply(&seeds[seed], &mutations, &seeds);
        let count = if read(&target, &input) > 0 { &accepted } else { &refused };
        count.set(count.get() + 1);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    // Mutations that leave everything sound, or nothing, would try little.
    let (accepted, refused) = (accepted.get(), refused.get());
    assert!(accepted > CASES / 20 && refused > CASES / 20, "{accepted} accepted, {refused} refused");
}

#[test]
fn mutated_safetensors_are_survived() {
    mutations_are_survived("safetensors");
}

#[test]
fn mutated_configs_are_survived() {
    mutations_are_survived("config");
}

#[test]
fn mutated_adapter_configs_are_survived() {
    mutations_are_survived("adapter_config");
}

#[test]
fn mutated_golden_indices_are_survived() {
    mutations_are_survived("golden_index");
}

/// Seeds that are refused would leave everything behind the first check untried.
#[test]
fn every_seed_is_a_sound_file() {
    let _alone = alone();
    for target in TARGETS {
        let seeds = inputs(&corpus().join(target.name));
        assert!(!seeds.is_empty(), "{}", target.name);
        for (name, bytes) in seeds {
            // Other families' configs ask for tensors that the seeds do not have.
            let foreign = target.name == "config" && !name.starts_with("llama");
            assert_eq!(read(&target, &bytes) > 0, !foreign, "{}/{name}", target.name);
        }
    }
}

#[test]
fn inputs_that_did_harm_once_are_survived() {
    let _alone = alone();
    for target in TARGETS {
        for (name, bytes) in inputs(&corpus().with_file_name("regressions").join(target.name)) {
            println!("{}/{name}: {} readers", target.name, read(&target, &bytes));
        }
    }
}
