//! `interleaf chat`: a conversation in the terminal, on the same engine as everything else.

mod command;
mod session;
mod stats;

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

use interleaf_runtime::Event;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::ChatArgs;
use crate::{CliError, interrupt, load, output, sampling};
use command::Line;
use session::{Answering, Session};

/// Talks until the user ends it.
pub fn run(args: &ChatArgs) -> Result<ExitCode, CliError> {
    interrupt::listen();
    let (mut engine, adapter) = load::open_chosen(&args.model, &args.engine)?;
    let sampling = sampling::options(&engine, &args.sampling);
    sampling.check()?;
    // Refused before anything is typed, and not after the first question.
    crate::prompt::conversation(&engine, &[interleaf_runtime::ChatMessage::new("user", "?")])?;
    let context = args.context.min(engine.context());
    engine.reserve_kv(1, context)?;
    let (stop, max_tokens) = (args.sampling.stop.clone(), args.max_tokens);
    let answering = Answering { sampling, stop, max_tokens, context };
    let mut session = Session::new(engine, adapter, args.system.clone(), answering);

    let mut editor = DefaultEditor::new().map_err(terminal)?;
    if std::io::stdin().is_terminal() {
        output::note(format_args!(
            "{}, {}. /help lists the commands.",
            load::model_name(args.model.model.as_deref()),
            session.adapter.as_deref().unwrap_or("base model")
        ));
    }
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(terminal(error)),
        };
        // Without a history there is only nothing to scroll back to.
        let _ = editor.add_history_entry(line.as_str());
        if act(&mut session, command::parse(&line))?.is_break() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Does what a line says. What a command refuses is told, and the conversation goes on.
fn act(session: &mut Session, line: Line) -> Result<ControlFlow<()>, CliError> {
    let done = match line {
        Line::Empty => Ok(()),
        Line::Say(text) => say(session, &text),
        Line::Adapters => stats::adapters(session),
        Line::Adapter(name) => session.set_adapter(name).map(|()| {
            let now = session.adapter.as_deref().unwrap_or("the base model");
            output::note(format_args!("{now} answers from now on"));
        }),
        Line::System(text) => {
            output::note(if text.is_some() { "system message set" } else { "no system message" });
            session.system = text;
            Ok(())
        }
        Line::Reset => session.reset().map(|()| output::note("forgotten")),
        Line::Stats => stats::stats(session),
        Line::Help => command::HELP
            .iter()
            .try_for_each(|(command, what)| output::line(format_args!("{command:<15} {what}"))),
        Line::Quit => return Ok(ControlFlow::Break(())),
        Line::Unknown(text) => {
            output::note(format_args!(
                "{text}: no such command; /help lists them, // begins words with a slash"
            ));
            Ok(())
        }
    };
    match done {
        // Nobody reads any more: there is nobody to go on for.
        Err(error @ CliError::Output(_)) => Err(error),
        Err(error) => {
            let hint = if error.is_context_full() { "; /reset begins anew" } else { "" };
            output::note(format_args!("interleaf: {error}{hint}"));
            Ok(ControlFlow::Continue(()))
        }
        Ok(()) => Ok(ControlFlow::Continue(())),
    }
}

fn say(session: &mut Session, text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    let bar = load::bar(0, "prefill");
    let mut written = Ok(());
    let answered = session.say(text, &mut |event| {
        match event {
            Event::Prefill { done, total, .. } => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                if done == total {
                    bar.finish_and_clear();
                }
            }
            Event::Text { text, .. } => {
                written = write!(stdout, "{text}").and_then(|()| stdout.flush());
            }
            Event::Finished { .. } => {}
        }
        if written.is_err() { ControlFlow::Break(()) } else { interrupt::check() }
    });
    bar.finish_and_clear();
    interrupt::clear();
    written?;
    answered?;
    Ok(writeln!(stdout)?)
}

fn terminal(error: ReadlineError) -> CliError {
    CliError::Terminal(error.to_string())
}
