//! `interleaf verify`: a model and its adapters against golden vectors, prompt by prompt.
//!
//! Cases of one prompt over all adapters run as one mixed batch: their prompts in pieces, then the
//! golden's own greedy tokens one at a time, each step's choice compared with the golden's. Feeding the
//! golden's token whatever was chosen keeps later steps comparable; if all choices are equal, so are the
//! sequences.

mod bounds;
mod compare;
pub mod golden;
mod reference;
mod report;
mod select;
pub mod suite;

use std::process::ExitCode;

use interleaf_runtime::{BackendChoice, Engine, Numerics, Source};

pub use bounds::Bounds;
use bounds::Rounding;
pub use compare::{Case, GreedyDifference, nll};
pub use report::Report;

use crate::args::{VerifyArgs, WeightsArg};
use crate::memory::backend_line;
use crate::{CliError, load, output};
use select::Selection;

/// Runs the comparison and prints it; exit code 1 if a bound is exceeded.
pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode, CliError> {
    if let Some(folder) = &args.suite {
        return suite::run(folder, args);
    }
    let report = verify(args)?;
    let printed = if args.json { output::json(&report) } else { report.print() };
    // The verdict stands even if nobody reads it.
    printed.or_else(|e| if output::reader_went_away(&e) { Ok(()) } else { Err(e) })?;
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Runs the comparison with one golden set.
///
/// # Errors
/// If there is no `--golden`, a file is refused, an adapter that was asked for has no golden, or the backend cannot run the
/// model.
pub fn verify(args: &VerifyArgs) -> Result<Report, CliError> {
    let folder = args.golden.as_deref().ok_or_else(|| CliError::Usage("--golden DIR is needed".into()))?;
    let mut golden = golden::read(folder)?;
    let mut engine = open(args, args.engine.backend.into())?;
    let selection = select::adapters(args, &mut golden, &mut engine)?;
    golden.check(engine.config(), engine.context())?;

    let info = engine.backend();
    // Goldens are of the stored weights. Converted ones are compared with the reference backend on the
    // same bits under the same numerics; on that backend itself the golden shows what converting costs.
    let against_reference = args.engine.weights != WeightsArg::Stored && info.name != "ref";
    let bounds = Bounds::of(&info, &args.engine);
    let mut rounding = Rounding::default();
    if against_reference {
        let mut reference = open_reference(args, info.numerics, &selection)?;
        reference::replace(&mut golden, &mut reference)?;
        if bounds.logit.is_none() {
            let mut unrounded = open_reference(args, Numerics::ActF32, &selection)?;
            rounding = Rounding::new(compare::run(&mut unrounded, &golden, "", bounds, &rounding)?);
        }
    }
    let model = load::model_name(args.model.as_deref());
    let cases = compare::run(&mut engine, &golden, &model, bounds, &rounding)?;
    Ok(Report::new(cases, selection, backend_line(&engine), against_reference, bounds))
}

fn source(args: &VerifyArgs) -> Source {
    args.model.as_deref().map_or_else(load::demo_base, Source::dir)
}

fn open_reference(args: &VerifyArgs, numerics: Numerics, selection: &Selection) -> Result<Engine, CliError> {
    let mut options = load::options(&args.engine);
    (options.backend, options.numerics, options.store) = (BackendChoice::Ref, numerics, None);
    let mut reference = load::open(source(args), &options)?;
    select::register(&selection.adapters, &mut reference)?;
    Ok(reference)
}

fn open(args: &VerifyArgs, backend: BackendChoice) -> Result<Engine, CliError> {
    let mut options = load::options(&args.engine);
    // What is being verified is verified anew: nothing that is kept from another run has a part in it.
    (options.backend, options.store) = (backend, None);
    load::open(source(args), &options)
}
