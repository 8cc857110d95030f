//! `interleaf simulate`: cache policies beside each other, on the workloads of their papers.

use std::process::ExitCode;

use interleaf_simulate::{Calibration, Grid, NamedPolicy, Report, Sizes, Workload, table};

use crate::args::SimulateArgs;
use crate::{CliError, output};

/// The machine where none is named.
const MACHINE: &str = "orin-nx";

/// Runs what is asked for and prints a row for each run.
pub fn run(args: &SimulateArgs) -> Result<ExitCode, CliError> {
    let cells = Grid {
        workloads: Workload::matching(&args.workload)?,
        policies: NamedPolicy::matching(&args.policy)?,
        sizes: args.bytes.map_or_else(Sizes::default, Sizes::Bytes),
        seeds: (args.seed..args.seed.saturating_add(args.seeds)).collect(),
        requests: args.requests,
        calibration: match &args.calibration {
            Some(path) => Calibration::load(path)?,
            None => Calibration::named(MACHINE)?,
        },
    }
    .run()?;
    if args.json {
        output::json(&Report { rows: cells.into_iter().map(|cell| cell.run).collect() })?;
    } else {
        output::line(table::rows(&cells))?;
        output::line(table::comparison(&cells))?;
    }
    Ok(ExitCode::SUCCESS)
}
