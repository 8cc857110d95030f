//! Plays workloads to the cache under policies: `cargo run --release -p interleaf-simulate --example simulate -- --help`.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use interleaf_simulate::{Calibration, Grid, NamedPolicy, Report, Sizes, Workload, table};

/// Plays workloads to the cache under policies, in simulated time.
#[derive(Debug, Parser)]
struct Args {
    /// llms, edgelora, elora or mobilora, a variant of one as in llms/random, or all of the four; several with commas
    #[arg(long, default_value = "all")]
    workload: String,
    /// A policy, one without a term as in elora-cost, all that are whole, or terms for each without one; several with commas
    #[arg(long, default_value = "all")]
    policy: String,
    /// Bytes of memory for K and V and adapters; without, 25, 50 and 75 % of the working set
    #[arg(long)]
    bytes: Option<u64>,
    /// Requests of each run
    #[arg(long, default_value_t = 2000)]
    requests: u64,
    /// What workloads are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from --seed on; of several the worst counts
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The machine, as in benches/workloads/machines; without, the one that is derived from LLMS's figures
    #[arg(long)]
    calibration: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let cells = Grid {
        workloads: Workload::matching(&args.workload)?,
        policies: NamedPolicy::matching(&args.policy)?,
        sizes: args.bytes.map_or_else(Sizes::default, Sizes::Bytes),
        seeds: (args.seed..args.seed.saturating_add(args.seeds)).collect(),
        requests: args.requests,
        calibration: match &args.calibration {
            Some(path) => Calibration::load(path)?,
            None => Calibration::named("orin-nx")?,
        },
    }
    .run()?;
    if args.json {
        let report = Report { rows: cells.into_iter().map(|cell| cell.run).collect() };
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}\n{}", table::rows(&cells), table::comparison(&cells));
    }
    Ok(())
}
