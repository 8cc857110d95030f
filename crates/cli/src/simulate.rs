//! `interleaf simulate`: cache policies beside each other, on the workloads of their papers.

use std::process::ExitCode;

use interleaf_simulate::{Calibration, Grid, NamedPolicy, Report, Sizes, Workload, table};

use crate::args::SimulateArgs;
use crate::{CliError, output};

/// Runs what is asked for and prints a row for each run.
pub fn run(args: &SimulateArgs) -> Result<ExitCode, CliError> {
    let cells = Grid {
        workloads: Workload::matching(&args.workload)?,
        policies: NamedPolicy::matching(&args.policy)?,
        sizes: args.bytes.map_or_else(Sizes::default, Sizes::Bytes),
        flash_bytes: args.flash,
        seeds: (args.seed..args.seed.saturating_add(args.seeds)).collect(),
        requests: args.requests,
        calibration: match args.calibration.to_str().filter(|name| is_built_in(name)) {
            Some(name) => Calibration::named(name)?,
            None => Calibration::load(&args.calibration)?,
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

fn is_built_in(name: &str) -> bool {
    Calibration::names().any(|known| known == name)
}
