//! Options of `interleaf simulate`.

use std::path::PathBuf;

use clap::Args;

/// Options of `simulate`.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    /// `llms`, `edgelora`, `elora` or `mobilora`, a variant of one as in `llms/random`, or all of the four; several with
    /// commas.
    #[arg(long, value_name = "NAME", default_value = "all")]
    pub workload: String,
    /// `lru`, `lctru`, `mobilora`, `elora`, `combined`, one without a term as in `elora-cost`, all that are whole, or `terms`
    /// for each without one; several with commas.
    #[arg(long, value_name = "NAME", default_value = "all")]
    pub policy: String,
    /// Bytes of memory for K and V and adapters [default: 25, 50 and 75 % of what the workload would take if nothing were
    /// shared]
    #[arg(long, value_name = "N")]
    pub bytes: Option<u64>,
    /// Bytes of flash below it that K and V go to, 0 for none.
    #[arg(long, value_name = "N", default_value_t = interleaf_simulate::Simulation::FLASH_BYTES)]
    pub flash: u64,
    /// Requests of each run.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub requests: u64,
    /// What workloads are drawn from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How many seeds, from `--seed` on; of several the worst counts.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seeds: u64,
    /// What the machine takes for what: a file like those in benches/workloads/machines, or the name of one of these.
    #[arg(long, value_name = "FILE", default_value = "orin-nx")]
    pub calibration: PathBuf,
    /// Print one JSON object instead.
    #[arg(long)]
    pub json: bool,
}
