//! `interleaf doctor`: what GPUs there are, which of their kernels are right, and what `--backend auto` takes.

use std::process::ExitCode;

use interleaf_runtime::doctor::{AdapterReport, examine};
use interleaf_runtime::{Store, VERSION};

use crate::args::DoctorArgs;
use crate::table::{self, Align};
use crate::{CliError, load, output};

/// Examines every adapter, prints what was found and keeps the verdicts.
pub fn run(args: &DoctorArgs) -> Result<ExitCode, CliError> {
    let bar = load::spinner("examining");
    let found = examine(&Store::new(args.store.folder()), &mut |what| bar.set_message(what.to_owned()));
    bar.finish_and_clear();
    let wrong = found.adapters.iter().flat_map(|a| &a.variants).any(|v| v.right == Some(false));
    let code = if wrong { ExitCode::from(1) } else { ExitCode::SUCCESS };
    if args.json {
        output::json(&found)?;
        return Ok(code);
    }
    for adapter in &found.adapters {
        lines(adapter).iter().try_for_each(output::line)?;
    }
    output::line(format_args!("--backend auto takes the {}: {}", found.auto, found.because))?;
    output::line(format_args!("interleaf {VERSION}; verdicts belong to a version of it and of the driver"))?;
    Ok(code)
}

fn lines(adapter: &AdapterReport) -> Vec<String> {
    let [least, most] = adapter.subgroups;
    let none = |text: String| if text.is_empty() { "none".into() } else { text };
    let chosen = match &adapter.chosen {
        Some([kernels, why]) => format!("{kernels}: {why}"),
        None => "none: no variant is right here".into(),
    };
    let speed = match adapter.faster {
        Some([generated, prompt]) => {
            format!(
                "{generated:.2} times the CPU's for generated rows, {prompt:.2} times for prompts, of q8_0 weights"
            )
        }
        None => "not measured".into(),
    };
    let mut lines = vec![adapter.name.clone(), String::new()];
    lines.extend(table::facts(&[
        ("kind", adapter.kind.clone()),
        ("driver", format!("{}, {}", adapter.api, adapter.driver)),
        ("subgroups", if most == 0 { "none".into() } else { format!("{least} to {most}") }),
        ("features", none(adapter.features.join(", "))),
        ("kernels", chosen),
        ("speed", speed),
    ]));
    lines.push(String::new());
    let limits: Vec<Vec<String>> =
        adapter.limits.iter().map(|(name, value)| vec![name.clone(), table::count(*value)]).collect();
    lines.extend(table::render(&[("limit", Align::Left), ("", Align::Right)], &limits));
    lines.push(String::new());
    let variants: Vec<Vec<String>> = (adapter.variants.iter())
        .map(|v| {
            let right = match v.right {
                Some(true) => "right",
                Some(false) => "WRONG",
                None => "not here",
            };
            vec![v.name.clone(), right.into(), v.detail.clone()]
        })
        .collect();
    let columns = [("kernels", Align::Left), ("", Align::Left), ("", Align::Left)];
    lines.extend(table::render(&columns, &variants));
    lines.push(String::new());
    for [symptom, source, remedy] in &adapter.faults {
        lines.push(format!("known fault: {symptom} ({source})"));
        lines.push(format!("    done about it: {remedy}"));
    }
    if !adapter.faults.is_empty() {
        lines.push(String::new());
    }
    lines
}
