//! `interleaf chat`: a conversation in the terminal, on the same engine as everything else.

mod command;
mod dialogue;
mod stats;

use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;

use interleaf_runtime::{ChatMessage, EngineOptions, Event, WidthOptions};

use crate::args::ChatArgs;
use crate::lines::{Lines, Read};
use crate::{CliError, interrupt, load, output, sampling};
use command::Line;
use dialogue::{Answering, Dialogue};

/// Talks until the user ends it. From a pipe, a line that failed makes the whole fail, in the end.
pub fn run(args: &ChatArgs) -> Result<ExitCode, CliError> {
    interrupt::listen();
    if args.at_rest && args.drift == 0.0 {
        return Err(CliError::Usage("--at-rest loses something: it needs a --drift above 0".into()));
    }
    if args.widths.is_some() && args.drift == 0.0 {
        return Err(CliError::Usage("--widths loses something: it needs a --drift above 0".into()));
    }
    let (context, at_rest) = (args.context, args.at_rest);
    let widths = args.widths.map(|ratio| WidthOptions { ratio, above: 0.0, ..WidthOptions::default() });
    let options = EngineOptions { context, at_rest, widths, ..load::run_options(&args.run) };
    let (mut engine, adapter) = load::open_chosen(&args.model, &options)?;
    let sampling = sampling::options(&engine, &args.sampling);
    sampling.check()?;
    // Refused before anything is typed, and not after the first question.
    crate::prompt::conversation(&engine, &[ChatMessage::new("user", "?")])?;
    engine.reserve_kv(1, engine.context())?;
    let (stop, max_tokens) = (args.sampling.stop.clone(), args.max_tokens);
    let is_patient = at_rest || widths.is_some();
    let answering = Answering { sampling, stop, max_tokens, drift: args.drift, is_patient };
    let mut dialogue = Dialogue::new(engine, adapter, args.system.clone(), answering);

    let mut lines = Lines::open()?;
    if lines.is_terminal() {
        output::note(format_args!(
            "{}, {}. /help lists the commands.",
            load::model_name(args.model.model.as_deref()),
            dialogue.adapter.as_deref().unwrap_or("base model")
        ));
    }
    let mut failed = false;
    loop {
        let done = match lines.next()? {
            Read::Line(line) => act(&mut dialogue, command::parse(&line)),
            Read::Garbled => Err(CliError::Input("a line is not UTF-8 text".into())),
            Read::GivenUp => {
                output::note("Ctrl-D or /quit ends the chat");
                Ok(ControlFlow::Continue(()))
            }
            Read::End => Ok(ControlFlow::Break(())),
        };
        match done {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            // Nobody reads any more: there is nobody to go on for.
            Err(error @ CliError::Output(_)) => return Err(error),
            Err(error) => {
                failed = true;
                let hint = if error.is_context_full() { "; /reset begins anew" } else { "" };
                output::note(format_args!("interleaf: {error}{hint}"));
            }
        }
    }
    Ok(if failed && !lines.is_terminal() { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// Does what a line says.
fn act(dialogue: &mut Dialogue, line: Line) -> Result<ControlFlow<()>, CliError> {
    match line {
        Line::Empty => {}
        Line::Say(text) => say(dialogue, &text)?,
        Line::Adapters => stats::adapters(dialogue)?,
        Line::Adapter(name) => {
            dialogue.set_adapter(name)?;
            let now = dialogue.adapter.as_deref().unwrap_or("the base model");
            output::note(format_args!("{now} answers from now on"));
        }
        Line::System(text) => {
            output::note(if text.is_some() { "system message set" } else { "no system message" });
            dialogue.system = text;
        }
        Line::Reset => {
            dialogue.reset()?;
            output::note("forgotten");
        }
        Line::Stats => stats::stats(dialogue)?,
        Line::Help => command::HELP
            .iter()
            .try_for_each(|(command, what)| output::line(format_args!("{command:<15} {what}")))?,
        Line::Quit => return Ok(ControlFlow::Break(())),
        Line::Unknown(text) => {
            let reason = "no such command; /help lists them, // begins words with a slash";
            return Err(CliError::Usage(format!("{text}: {reason}")));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn say(dialogue: &mut Dialogue, text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    let bar = load::bar(0, "prefill");
    let (mut written, mut begun) = (Ok(()), false);
    let answered = dialogue.say(text, &mut |event| {
        match event {
            Event::Prefill { done, total, .. } => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                if done == total {
                    bar.finish_and_clear();
                }
            }
            Event::Text { text, .. } => {
                begun = true;
                written = write!(stdout, "{text}").and_then(|()| stdout.flush());
            }
            // The command line suspends no GPU.
            Event::Finished { .. } | Event::Suspended => {}
        }
        if written.is_err() { ControlFlow::Break(()) } else { interrupt::check() }
    });
    bar.finish_and_clear();
    interrupt::clear();
    written?;
    if begun || answered.is_ok() {
        writeln!(stdout)?;
    }
    answered
}
