//! What is counted while requests are served.

use std::time::Duration;

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::Manager;

use super::Simulation;
use super::costs::Work;
use crate::row::{Row, Run};
use crate::summary::Summary;

/// Moments of a run at which memory is looked through; each takes as long as serving some requests.
const SAMPLES: u64 = 64;

/// Counts.
#[derive(Debug)]
pub(super) struct Tally {
    /// Requests that came, and those that were refused, served, or gave up what they had.
    pub came: u64,
    pub refused: u64,
    pub served: u64,
    pub retried: u64,
    pub ttft: Summary,
    pub switch: Summary,
    prompt_tokens: u64,
    reused_tokens: u64,
    resident_tokens: u64,
    bytes_moved: u64,
    operations: u64,
    evicted: u64,
    /// When the last request was done.
    end: f64,
    /// Served requests from one look through memory to the next.
    every: u64,
    /// When memory was last looked through; bytes of K and V, and those of no use, each times the seconds before.
    looked: f64,
    pages: f64,
    invalid: f64,
}

impl Tally {
    pub fn new(requests: u64) -> Self {
        Self {
            came: 0,
            refused: 0,
            served: 0,
            retried: 0,
            ttft: Summary::new(),
            switch: Summary::new(),
            prompt_tokens: 0,
            reused_tokens: 0,
            resident_tokens: 0,
            bytes_moved: 0,
            operations: 0,
            evicted: 0,
            end: 0.0,
            every: requests.div_ceil(SAMPLES).max(1),
            looked: 0.0,
            pages: 0.0,
            invalid: 0.0,
        }
    }

    /// A request has found its context and goes on to its prefill: so many tokens of its prompt are there, of which `work`
    /// was brought for it.
    pub fn found(&mut self, prompt: u64, reused: usize, work: &Work) {
        self.prompt_tokens += prompt;
        let chunks = CHUNK_TOKENS as u64;
        self.reused_tokens += (reused as u64).saturating_sub(u64::from(work.recomputed) * chunks);
        let brought = u64::from(work.missing()) * chunks;
        self.resident_tokens += (reused as u64).saturating_sub(brought);
    }

    /// Moves begin.
    pub fn moved(&mut self, work: &Work, moves: usize) {
        self.bytes_moved += work.bytes();
        self.operations += moves as u64;
    }

    /// Chunks were looked up and found, inserted or released.
    pub fn touched(&mut self, tokens: usize) {
        self.operations += tokens.div_ceil(CHUNK_TOKENS) as u64;
    }

    /// So many nodes have been evicted in all from memory, and so many from flash.
    pub fn evicted(&mut self, memory: u64, flash: u64) {
        self.operations += memory + flash;
        self.evicted = memory;
    }

    /// A request has been served.
    pub fn done(&mut self, manager: &Manager, now: f64) {
        self.served += 1;
        self.end = now;
        if self.served.is_multiple_of(self.every) {
            self.sample(manager, now);
        }
    }

    /// Looks through memory.
    pub fn sample(&mut self, manager: &Manager, now: f64) {
        let (usage, seconds) = (manager.usage(), now - self.looked);
        self.pages += (usage.in_use + usage.cached) as f64 * seconds;
        self.invalid += usage.invalid as f64 * seconds;
        self.looked = now;
    }

    /// The report.
    pub fn run(&self, simulation: &Simulation, took: Duration) -> Run {
        let share = |part: f64, all: f64| if all > 0.0 { part / all } else { 0.0 };
        let milliseconds = |seconds: Option<f64>| seconds.map(|seconds| 1e3 * seconds);
        let row = Row {
            workload: simulation.workload.name().to_owned(),
            policy: simulation.policy.name.to_owned(),
            bytes: simulation.bytes,
            hit_rate: share(self.reused_tokens as f64, self.prompt_tokens as f64),
            invalid_kv_share: share(self.invalid, self.pages),
            bytes_moved: self.bytes_moved,
            ttft_mean_ms: milliseconds(self.ttft.mean()),
            ttft_p50_ms: milliseconds(self.ttft.quantile(0.5)),
            ttft_p95_ms: milliseconds(self.ttft.quantile(0.95)),
            ttft_p99_ms: milliseconds(self.ttft.quantile(0.99)),
            switch_mean_ms: milliseconds(self.switch.mean()),
            switch_p99_ms: milliseconds(self.switch.quantile(0.99)),
            requests_per_second: share(self.served as f64, self.end),
        };
        Run {
            row,
            seed: simulation.seed,
            requests: self.came,
            served: self.served,
            refused: self.refused,
            retried: self.retried,
            memory_hit_rate: share(self.resident_tokens as f64, self.prompt_tokens as f64),
            evicted: self.evicted,
            operations: self.operations,
            operations_per_second: share(self.operations as f64, took.as_secs_f64()),
        }
    }
}
