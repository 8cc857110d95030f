//! From options to a loaded engine, with a progress bar on standard error where a person watches.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{Engine, EngineError, EngineOptions, Source, wants_kernels};

use crate::args::{EngineArgs, ModelArgs, RunArgs};
use crate::{CliError, output};

/// The engine options that the command line asks for.
pub fn options(args: &EngineArgs) -> EngineOptions {
    EngineOptions {
        backend: args.backend.into(),
        weights: args.weights.into(),
        pages: args.pages.into(),
        numerics: args.numerics.into(),
        gpu: (&args.gpu).into(),
        threads: args.threads,
        performance_threads: !args.all_cores,
        prefix_cache: !args.no_prefix_cache,
        first_touch: !args.no_first_touch,
        keys: args.keys.into(),
        store: args.store.folder(),
        // Whoever types a command again wants it tried again; a line says what happened the last time.
        retry_load: true,
        ..EngineOptions::default()
    }
}

/// The same with what is not always in memory.
pub fn run_options(args: &RunArgs) -> EngineOptions {
    args.tiers.with(options(&args.engine))
}

/// A bar on standard error; hidden where that is no terminal.
pub fn bar(len: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(len as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix:>12} {bar:32} {pos}/{len} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A spinner on standard error; hidden where that is no terminal.
#[cfg(feature = "gpu")]
pub fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix:>12} {spinner} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// The embedded model.
pub fn demo_base() -> Source {
    Source::Embedded { name: demo_model::NAME, files: demo_model::BASE }
}

/// The embedded adapters.
pub fn demo_adapters() -> impl Iterator<Item = (&'static str, Source)> {
    demo_model::ADAPTERS.iter().map(|&(name, files)| (name, Source::Embedded { name, files }))
}

/// Opens a model.
///
/// # Errors
/// If its files are refused or the backend cannot run it.
pub fn open(source: Source, options: &EngineOptions) -> Result<Engine, CliError> {
    let bar = bar(0, "loading");
    let engine = Engine::open(source, options, &mut |p| {
        bar.set_length(p.total as u64);
        bar.set_position(p.done as u64);
        bar.set_message("layers");
    });
    bar.finish_and_clear();
    let mut engine = engine?;
    if wants_kernels()
        && let Err(error) = engine.set_profiling(true)
    {
        output::note(format_args!("kernels are not timed: {error}"));
    }
    Ok(engine)
}

/// Opens what [`ModelArgs`] name and returns the chosen adapter, if any.
///
/// # Errors
/// If a model or adapter is refused, or the chosen adapter is not among them.
pub fn open_chosen(args: &ModelArgs, options: &EngineOptions) -> Result<(Engine, Option<String>), CliError> {
    let source = args.model.as_deref().map_or_else(demo_base, Source::dir);
    let mut opened = open(source, options)?;
    for adapter in &args.adapters {
        opened.register_adapter(&adapter.name, &Source::dir(&adapter.folder))?;
    }
    if args.model.is_none() {
        for (name, source) in demo_adapters() {
            if !args.adapters.iter().any(|a| a.name == name) {
                opened.register_adapter(name, &source)?;
            }
        }
    }
    let chosen = match (args.chosen.as_deref(), args.adapters.as_slice()) {
        (Some("none"), _) => None,
        (Some(name), _) => Some(name.to_owned()),
        (None, [only]) => Some(only.name.clone()),
        (None, _) => None,
    };
    if let Some(name) = &chosen
        && !opened.adapters().any(|adapter| adapter.name == *name)
    {
        let known = opened.adapters().map(|adapter| adapter.name.clone()).collect();
        return Err(EngineError::UnknownAdapter { name: name.clone(), known }.into());
    }
    Ok((opened, chosen))
}

/// What a model is called in reports: its folder's name, or the embedded model's. A folder `base` has adapters beside it, and
/// is called by what holds them.
pub fn model_name(folder: Option<&Path>) -> String {
    let Some(folder) = folder else { return demo_model::NAME.into() };
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let own = name(&absolute);
    let holder = || absolute.parent().and_then(name);
    let called = if own.as_deref() == Some("base") { holder().or(own) } else { own };
    called.unwrap_or_else(|| absolute.display().to_string())
}
