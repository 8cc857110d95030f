//! What a run is reported as.

use serde::Serialize;

/// A run in figures. Times are milliseconds of simulated time, and `None` where no request was served.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The workload, with its variant.
    pub workload: String,
    /// The policy.
    pub policy: String,
    /// Bytes of memory that K and V and adapters share.
    pub bytes: u64,
    /// Share of the prompts' tokens that were not computed: they were in memory, or came from storage. Of requests that
    /// were served.
    pub hit_rate: f64,
    /// Share of the K and V in memory that nobody could use as they lay ([`interleaf_kv::Usage::invalid`]), over time; 0
    /// where memory never held any.
    pub invalid_kv_share: f64,
    /// Bytes read, written and loaded from and to storage.
    pub bytes_moved: u64,
    /// From when a request came to the first token of its answer: the mean.
    pub ttft_mean_ms: Option<f64>,
    /// The median of it.
    pub ttft_p50_ms: Option<f64>,
    /// What 95 % do not exceed.
    pub ttft_p95_ms: Option<f64>,
    /// What 99 % do not exceed.
    pub ttft_p99_ms: Option<f64>,
    /// From when a request has a slot until its adapter and its context's past are in memory, what was lost of that being
    /// computed again: the mean.
    pub switch_mean_ms: Option<f64>,
    /// What 99 % do not exceed.
    pub switch_p99_ms: Option<f64>,
    /// Requests that were served, by the simulated time until the last of them was.
    pub requests_per_second: f64,
}

/// A run: its row and what is of interest beside it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// The figures.
    #[serde(flatten)]
    pub row: Row,
    /// The seed that the workload was drawn from.
    pub seed: u64,
    /// Requests that came.
    pub requests: u64,
    /// Of these, those that were answered; all others were refused.
    pub served: u64,
    /// Those that do not fit into memory even alone.
    pub refused: u64,
    /// Requests that gave up what they had found, because all that were under way waited for room.
    pub retried: u64,
    /// Share of the prompts' tokens that were in memory when their request started.
    pub memory_hit_rate: f64,
    /// Chunks and adapters that were taken from memory.
    pub evicted: u64,
    /// Chunks that were looked up and found, inserted, moved, released, or let go by memory or flash, and adapters that were
    /// moved or evicted. What is not found is not counted.
    pub operations: u64,
    /// Of these, how many in a second of this machine's time, the drawing and serving of requests included and the test of
    /// the cache at the end left out: the one figure that differs from run to run.
    pub operations_per_second: f64,
}

/// What `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Every run.
    pub rows: Vec<Run>,
}
