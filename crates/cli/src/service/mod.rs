//! `interleaf service`: the library's service, by lines that are typed or come from a script: apps with contexts, calls of all of
//! them side by side, states, pressure on memory.

mod command;
mod counters;
mod follow;
mod pool;
mod printer;
mod shell;

use std::ops::ControlFlow;
use std::process::ExitCode;

use interleaf_runtime::{EngineOptions, Restored, Service, ServiceOptions};

use crate::args::ServiceArgs;
use crate::lines::{Lines, Read};
use crate::memory::backend_line;
use crate::{CliError, interrupt, load, output};
use printer::Printer;
use shell::{Defaults, Shell};

/// Serves until the lines end. Of a script, the first line that fails ends it.
pub fn run(args: &ServiceArgs) -> Result<ExitCode, CliError> {
    interrupt::listen();
    let mut lines = args.script.as_deref().map_or_else(Lines::open, Lines::file)?;
    let options =
        EngineOptions { context: args.context, at_rest: args.at_rest, ..load::run_options(&args.run) };
    let (mut engine, adapter) = load::open_chosen(&args.model, &options)?;
    engine.reserve_kv(usize::try_from(args.pool).unwrap_or(usize::MAX), engine.context())?;
    if let Some(router) = &args.router {
        crate::router::open_head(&mut engine, router.as_deref())?;
    }
    let backend = backend_line(&engine);
    // Only where somebody says where: what is typed here is nobody else's.
    let keeps_contexts = args.run.engine.store.store.is_some();
    let service = Service::start(engine, ServiceOptions { keeps_contexts, ..ServiceOptions::default() })?;
    if lines.is_terminal() {
        let model = load::model_name(args.model.model.as_deref());
        output::note(format_args!("{model} on {backend}. `help` lists the commands."));
    }
    let &Restored { contexts, of_other_models, .. } = service.restored();
    let are = |count| if count == 1 { "context is" } else { "contexts are" };
    if contexts > 0 {
        output::note(format_args!("{contexts} {} there again; `app NAME` shows an app's", are(contexts)));
    }
    if of_other_models > 0 {
        output::note(format_args!("{of_other_models} {} of other models", are(of_other_models)));
    }
    let printer = Printer::new(lines.printer()?);
    let shell = Shell::new(service, printer, Defaults { adapter, max_tokens: args.max_tokens, backend });
    if lines.is_terminal() {
        talk(shell, &mut lines)
    } else {
        let script = args.script.as_deref().map(|path| path.display().to_string());
        play(shell, &mut lines, &script.unwrap_or_else(|| "standard input".into()))
    }
}

/// A person types: what fails is told, and the next line may do better.
fn talk(mut shell: Shell, lines: &mut Lines) -> Result<ExitCode, CliError> {
    loop {
        let done = match lines.next()? {
            Read::Line(line) => act(&mut shell, &line, 0),
            Read::Garbled => Err(CliError::Input("a line is not UTF-8 text".into())),
            Read::GivenUp => {
                output::note("Ctrl-D or `quit` ends the service");
                Ok(ControlFlow::Continue(()))
            }
            Read::End => Ok(ControlFlow::Break(())),
        };
        match done {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            // Nobody reads any more: there is nobody to go on for.
            Err(error @ CliError::Output(_)) => return Err(error),
            Err(error) => output::note(format_args!("interleaf: {error}")),
        }
        // The failures of calls were told as they came.
        shell.take_failed();
    }
    shell.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// A script: its lines in order, then what they left under way.
fn play(mut shell: Shell, lines: &mut Lines, script: &str) -> Result<ExitCode, CliError> {
    let played = play_lines(&mut shell, lines, script);
    let finished = shell.finish();
    played.and(finished).map(|()| ExitCode::SUCCESS)
}

fn play_lines(shell: &mut Shell, lines: &mut Lines, script: &str) -> Result<(), CliError> {
    let failed = |line: usize, command: &str, error: CliError| match error {
        error @ CliError::Output(_) => error,
        error => CliError::Script {
            script: script.into(),
            line,
            command: follow::clean(command.trim()),
            reason: error.to_string(),
        },
    };
    // A call's failure is its own line's, however late it is seen.
    let failed_call = |shell: &mut Shell| {
        let first = shell.take_failed().into_iter().next();
        first.map_or(Ok(()), |call| Err(failed(call.line, &call.command, call.error)))
    };
    let mut number = 0;
    loop {
        number += 1;
        let line = match lines.next()? {
            Read::Line(line) => line,
            Read::Garbled => {
                let error = CliError::Usage("expected text in UTF-8".into());
                return Err(failed(number, "", error));
            }
            Read::GivenUp | Read::End => break,
        };
        shell.echo(&line)?;
        let done = act(shell, &line, number).map_err(|error| failed(number, &line, error))?;
        failed_call(shell)?;
        if done.is_break() {
            return Ok(());
        }
    }
    shell.wait_for_all().map_err(|error| failed(number, "the end", error))?;
    failed_call(shell)
}

fn act(shell: &mut Shell, line: &str, number: usize) -> Result<ControlFlow<()>, CliError> {
    match command::parse(line).map_err(CliError::Usage)? {
        None => Ok(ControlFlow::Continue(())),
        Some(command) => shell.act(command, line.trim(), number),
    }
}
