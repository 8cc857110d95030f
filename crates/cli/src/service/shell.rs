//! The apps and contexts that commands name, and what commands do to them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use interleaf_runtime::{
    AdapterSummary, Answer, App, CallOptions, ChatMessage, Context, ContextId, Generation, Prompt,
    SamplingOptions, Service, ServiceError, Source,
};

use super::command::{Call, Command, HELP};
use super::counters;
use super::follow::{End, clean, follow};
use super::pool;
use super::printer::Printer;
use crate::table::{Align, bytes, facts, render, wrapped};
use crate::{CliError, generate, interrupt};

/// How often the status line is written anew, and Ctrl-C looked for.
const TICK: Duration = Duration::from_millis(100);

/// Columns before what a command does, in the list of commands.
const INDENT: usize = 30;

/// What calls have that do not say.
pub struct Defaults {
    pub adapter: Option<String>,
    pub max_tokens: usize,
    /// What runs the model, for `stats`.
    pub backend: String,
}

/// A context with a name.
struct Open {
    context: Context,
    app: String,
    /// What was said in it; `None` where that is not known: of an earlier run, or not in turns.
    messages: Option<Vec<ChatMessage>>,
}

/// A call that has not been seen to end.
struct Running {
    generation: Arc<Generation>,
    /// The turns so far, of a turn.
    messages: Option<Vec<ChatMessage>>,
    line: usize,
    command: String,
}

/// A call that failed, and the line that made it.
pub struct FailedCall {
    context: String,
    pub line: usize,
    pub command: String,
    pub error: CliError,
}

/// A service with what it is called by here.
pub struct Shell {
    service: Service,
    printer: Printer,
    defaults: Defaults,
    apps: BTreeMap<String, App>,
    contexts: BTreeMap<String, Open>,
    running: BTreeMap<String, Running>,
    /// Those that nobody has taken yet.
    failed: Vec<FailedCall>,
    sender: Sender<End>,
    ends: Receiver<End>,
}

impl Shell {
    /// One with nothing in it.
    pub fn new(service: Service, printer: Printer, defaults: Defaults) -> Self {
        let (sender, ends) = channel();
        Self {
            service,
            printer,
            defaults,
            apps: BTreeMap::new(),
            contexts: BTreeMap::new(),
            running: BTreeMap::new(),
            failed: Vec::new(),
            sender,
            ends,
        }
    }

    /// Does what a line says.
    ///
    /// # Errors
    /// If that is refused, or a line could not be printed.
    pub fn act(&mut self, command: Command, line: &str, number: usize) -> Result<ControlFlow<()>, CliError> {
        // Answers may have ended without anybody having looked.
        self.receive(Duration::ZERO);
        match command {
            Command::App { name, salt } => self.start_app(name, salt)?,
            Command::Open { app, number, name } => self.open(&app, number, name)?,
            Command::Call(call) => self.call(*call, line, number)?,
            Command::Wait(None) => self.wait_for_all()?,
            Command::Wait(Some(context)) => {
                self.context(&context)?;
                self.wait(|shell| !shell.running.contains_key(&context))?;
            }
            Command::Cancel(context) => {
                self.context(&context)?;
                match self.running.get(&context) {
                    Some(running) => running.generation.cancel(),
                    None => self.printer.line(format_args!("{context}: no answer is under way")),
                }
            }
            Command::Delete(name) => {
                self.context(&name)?.context.delete()?;
                self.contexts.remove(&name);
                // So that the next context of this name is not taken for it.
                self.wait(|shell| !shell.running.contains_key(&name))?;
            }
            Command::State { app, to } => self.app(&app)?.set_state(to)?,
            Command::Trim(level) => self.service.trim_memory(level)?,
            Command::Budget(bytes) => self.service.set_budget(bytes)?,
            Command::Suspend => self.service.suspend_gpu(),
            Command::Resume => self.service.resume_gpu(),
            Command::Adapters => self.show_adapters()?,
            Command::Register { name, folder } => {
                self.show_adapter(&self.service.register_adapter(&name, Source::dir(folder))?);
            }
            Command::Replace { name, folder } => {
                self.show_adapter(&self.service.replace_adapter(&name, Source::dir(folder))?);
            }
            Command::Contexts => self.show_contexts()?,
            Command::Memory => {
                let held = self.service.memory()?;
                facts(&pool::rows(&held)).iter().for_each(|line| self.printer.line(line));
            }
            Command::Stats => self.show_stats()?,
            Command::Sleep(ms) => {
                let start = Instant::now();
                self.wait(|_| start.elapsed() >= Duration::from_millis(ms))?;
            }
            Command::Refused(command) => self.refused(*command, line, number)?,
            Command::Help => {
                let width = usize::from(console::Term::stdout().size().1).max(80) - INDENT;
                for (command, what) in HELP {
                    for (line, what) in wrapped(what, width).into_iter().enumerate() {
                        let command = if line == 0 { command } else { "" };
                        self.printer.line(format_args!("{command:<INDENT$}{what}"));
                    }
                }
            }
            Command::Quit => return Ok(ControlFlow::Break(())),
        }
        self.printer.check()?;
        Ok(ControlFlow::Continue(()))
    }

    /// A script's line, before what it does.
    ///
    /// # Errors
    /// If a line could not be printed.
    pub fn echo(&self, line: &str) -> Result<(), CliError> {
        let line = line.trim();
        if !line.is_empty() {
            self.printer.line(console::style(format!("> {}", clean(line))).dim());
        }
        self.printer.check()
    }

    fn start_app(&mut self, name: String, salt: Option<[u8; 16]>) -> Result<(), CliError> {
        let app = self.service.app(&name, salt)?;
        for context in app.contexts() {
            if self.contexts.values().any(|open| open.context.id() == context.id()) {
                continue;
            }
            let called = format!("{name}.{}", context.id().0);
            let tokens = context.tokens()?.len();
            self.printer.line(format_args!("{called}: {tokens} tokens, of an earlier run"));
            self.contexts.insert(called, Open { context, app: name.clone(), messages: None });
        }
        self.apps.insert(name, app);
        Ok(())
    }

    fn open(&mut self, app: &str, number: Option<u64>, name: Option<String>) -> Result<(), CliError> {
        let owner = self.app(app)?;
        if let Some(name) = name.as_ref().filter(|name| self.contexts.contains_key(*name)) {
            return Err(CliError::Usage(format!("a context is called {name} already")));
        }
        let (context, messages) = match number {
            Some(number) => (owner.context(ContextId(number))?, None),
            None => (owner.new_context()?, Some(Vec::new())),
        };
        // It has one name at a time.
        let earlier = self.contexts.iter().find(|(_, open)| open.context.id() == context.id());
        let earlier = earlier.map(|(name, _)| name.clone());
        if let Some(busy) = earlier.as_ref().filter(|earlier| self.running.contains_key(*earlier)) {
            return Err(CliError::Usage(format!("{busy} is being called, and keeps its name meanwhile")));
        }
        let messages =
            earlier.and_then(|name| self.contexts.remove(&name)).map_or(messages, |open| open.messages);
        let called = name.unwrap_or_else(|| format!("{app}.{}", context.id().0));
        self.printer.line(format_args!("{called}: {}", context.id()));
        self.contexts.insert(called, Open { context, app: app.into(), messages });
        Ok(())
    }

    fn call(&mut self, call: Call, line: &str, number: usize) -> Result<(), CliError> {
        let Call { context: name, is_turn, adapter, max_tokens, seed, temperature, drift, text } = call;
        let options = CallOptions {
            adapter: adapter.unwrap_or_else(|| self.defaults.adapter.clone().into()),
            max_tokens: max_tokens.unwrap_or(self.defaults.max_tokens),
            sampling: SamplingOptions { seed, temperature, ..SamplingOptions::default() },
            drift,
            ..CallOptions::default()
        };
        let open = self.context(&name)?;
        // Its answer may be over, but not all of it printed.
        if self.running.contains_key(&name) {
            return Err(ServiceError::ContextBusy(open.context.id()).into());
        }
        let messages = match (&open.messages, is_turn) {
            (_, false) => None,
            (Some(before), true) => Some([&before[..], &[ChatMessage::new("user", &*text)]].concat()),
            (None, true) => {
                let expected = "expected a context whose conversation began in this run, or `call`";
                return Err(CliError::Usage(format!(
                    "{name} has text that is not known turn by turn: {expected}"
                )));
            }
        };
        let prompt = messages.clone().map_or(Prompt::Text(text), Prompt::Chat);
        let generation = Arc::new(open.context.call(&prompt, &options)?);
        if let Some(open) = self.contexts.get_mut(&name).filter(|_| !is_turn) {
            open.messages = None;
        }
        let running =
            Running { generation: Arc::clone(&generation), messages, line: number, command: line.into() };
        self.running.insert(name.clone(), running);
        follow(name, generation, self.printer.clone(), self.sender.clone())
    }

    /// Carries out what is to be refused.
    fn refused(&mut self, command: Command, line: &str, number: usize) -> Result<(), CliError> {
        let done = match command {
            Command::Call(call) => {
                let name = call.context.clone();
                match self.call(*call, line, number) {
                    Ok(()) => {
                        self.wait(|shell| !shell.running.contains_key(&name))?;
                        let mut failed = self.failed.extract_if(.., |failed| failed.context == name);
                        failed.next().map_or(Ok(()), |failed| Err(failed.error))
                    }
                    refused => refused,
                }
            }
            command => self.act(command, line, number).map(|_| ()),
        };
        match done {
            Ok(()) => Err(CliError::Usage("expected it to be refused, and it was not".into())),
            Err(error @ CliError::Output(_)) => Err(error),
            Err(error) => {
                self.printer.line(format_args!("refused: {error}"));
                Ok(())
            }
        }
    }

    /// Waits until no call is under way.
    ///
    /// # Errors
    /// If Ctrl-C was pressed.
    pub fn wait_for_all(&mut self) -> Result<(), CliError> {
        self.wait(|shell| shell.running.is_empty())
    }

    /// Waits for something, with a status line meanwhile. Ctrl-C cancels what is under way.
    fn wait(&mut self, is_done: impl Fn(&Self) -> bool) -> Result<(), CliError> {
        let mut shown = None::<Instant>;
        let done = loop {
            self.receive(Duration::ZERO);
            if is_done(self) {
                break Ok(());
            }
            if interrupt::check().is_break() {
                interrupt::clear();
                self.running.values().for_each(|running| running.generation.cancel());
                break Err(CliError::Usage("interrupted".into()));
            }
            if shown.is_none_or(|at| at.elapsed() >= TICK) {
                let (held, stats) = (self.service.memory()?, self.service.stats()?);
                self.printer.show(pool::status(&held, &stats));
                shown = Some(Instant::now());
            }
            self.receive(TICK / 10);
        };
        self.printer.hide();
        done
    }

    /// Sees calls end, for which it waits at most so long.
    fn receive(&mut self, most: Duration) {
        let mut end = self.ends.recv_timeout(most).ok();
        while let Some((name, outcome)) = end {
            self.ended(name, outcome);
            end = self.ends.try_recv().ok();
        }
    }

    fn ended(&mut self, name: String, outcome: Result<Answer, ServiceError>) {
        let Some(Running { messages, line, command, .. }) = self.running.remove(&name) else { return };
        match outcome {
            Ok(answer) => {
                let Some(mut messages) = messages else { return };
                messages.push(ChatMessage::new("assistant", answer.completion.text));
                if let Some(open) = self.contexts.get_mut(&name) {
                    open.messages = Some(messages);
                }
            }
            Err(error) => {
                self.failed.push(FailedCall { context: name, line, command, error: error.into() });
            }
        }
    }

    /// Sees calls end that have, and gives those that failed.
    pub fn take_failed(&mut self) -> Vec<FailedCall> {
        self.receive(Duration::ZERO);
        std::mem::take(&mut self.failed)
    }

    /// Cancels what is under way, sees it end and stops the service.
    ///
    /// # Errors
    /// If its thread has panicked, or a line could not be printed.
    pub fn finish(mut self) -> Result<(), CliError> {
        self.running.values().for_each(|running| running.generation.cancel());
        self.wait_for_all()?;
        self.service.stop()?;
        self.printer.check()
    }

    fn app(&self, name: &str) -> Result<&App, CliError> {
        let known = || self.apps.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.apps.get(name).ok_or_else(|| {
            CliError::Usage(format!(
                "no app {name:?} has started: expected one of {{{}}}, or `app {name}`",
                known()
            ))
        })
    }

    fn context(&self, name: &str) -> Result<&Open, CliError> {
        let known = || self.contexts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let unknown =
            || CliError::Usage(format!("no context is called {name:?}: expected one of {{{}}}", known()));
        self.contexts.get(name).ok_or_else(unknown)
    }

    fn show_adapter(&self, AdapterSummary { name, sites, max_rank, .. }: &AdapterSummary) {
        self.printer.line(format_args!("{name}: {sites} projections, rank {max_rank} at most"));
    }

    fn show_adapters(&self) -> Result<(), CliError> {
        let adapters = self.service.adapters()?;
        let rows: Vec<Vec<String>> = adapters
            .iter()
            .map(|adapter| {
                let kind = if adapter.activated { "activated" } else { "" };
                vec![adapter.name.clone(), adapter.max_rank.to_string(), bytes(adapter.bytes), kind.into()]
            })
            .collect();
        let columns =
            [("adapter", Align::Left), ("rank", Align::Right), ("bytes", Align::Right), ("", Align::Left)];
        render(&columns, &rows).iter().for_each(|line| self.printer.line(line));
        Ok(())
    }

    fn show_contexts(&self) -> Result<(), CliError> {
        let row = |(name, open): (&String, &Open)| {
            let state = self.app(&open.app)?.state();
            let call = if self.running.contains_key(name) { "under way" } else { "" };
            Ok(vec![
                name.clone(),
                open.app.clone(),
                format!("{state:?}").to_lowercase(),
                open.context.id().0.to_string(),
                open.context.tokens()?.len().to_string(),
                call.into(),
            ])
        };
        let rows: Vec<Vec<String>> = self.contexts.iter().map(row).collect::<Result<_, CliError>>()?;
        let columns = [
            ("context", Align::Left),
            ("app", Align::Left),
            ("state", Align::Left),
            ("number", Align::Right),
            ("tokens", Align::Right),
            ("call", Align::Left),
        ];
        render(&columns, &rows).iter().for_each(|line| self.printer.line(line));
        Ok(())
    }

    fn show_stats(&self) -> Result<(), CliError> {
        let stats = self.service.stats()?;
        let (prompt, reused) = (stats.prompt_tokens as usize, stats.reused_tokens as usize);
        let rows = [
            ("answers", format!("{}, {} of them cancelled", stats.answered, stats.cancelled)),
            ("failed", format!("{}, and {} refused since too many waited", stats.failed, stats.overloaded)),
            ("now", format!("{} under way, {} waiting", stats.under_way, stats.waiting)),
            ("all prompts", generate::reuse(prompt, reused)),
            ("all answers", format!("{} tokens", stats.generated_tokens)),
            ("first token", counters::times(&stats.first_token)),
            ("each token", counters::times(&stats.per_token)),
            ("adapters", counters::adapters(&stats.adapters)),
            ("flash", counters::swap(stats.swap.as_ref())),
            ("backend", self.defaults.backend.clone()),
        ];
        facts(&rows).iter().for_each(|line| self.printer.line(line));
        Ok(())
    }
}
