//! Windows of tokens that adapters are calibrated and measured on: of a text, or the demo model's. These stand for other
//! models, too, whose tokenizer is the same by what it says, under adapters that are called as the demo's.

use std::path::Path;

use interleaf_calibrate::{Parts, Windows, cut, read_windows};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{Engine, Model};

use crate::{CliError, load, output};

/// Tokens of a window that is calibrated on.
pub const WINDOW: usize = 512;

/// Whose windows there are for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demo {
    /// Whether the demo model's tokens are this model's.
    has_same_tokens: bool,
}

impl Demo {
    /// Compares an engine's tokenizer with the demo model's.
    pub fn new(engine: &Engine) -> Result<Self, CliError> {
        let Ok(own) = engine.tokenizer("windows") else { return Ok(Self { has_same_tokens: false }) };
        let demo = Model::open(load::demo_base())?.tokenizer()?;
        Ok(Self { has_same_tokens: demo.is_some_and(|demo| own.is_same_as(&demo)) })
    }

    /// What an adapter is calibrated on: the text, else the demo model's windows for an adapter of that name, else its text of
    /// all domains, which is said. An activated LoRA is turned on in each window.
    pub fn calibration(
        self,
        engine: &Engine,
        adapter: &str,
        text: Option<&Path>,
    ) -> Result<Windows, CliError> {
        Ok(invoking(engine, adapter, self.plain(engine, adapter, text)?))
    }

    fn plain(self, engine: &Engine, adapter: &str, text: Option<&Path>) -> Result<Windows, CliError> {
        let length = WINDOW.min(engine.context());
        if let Some(path) = text {
            return of_text(engine, path, length);
        }
        match demo_model::CALIBRATION.iter().find(|(name, _)| self.has_same_tokens && *name == adapter) {
            Some((name, bytes)) => {
                Ok(read_windows(&format!("the demo model's windows for {name}"), bytes, "input_ids")?)
            }
            None => {
                let name = "the demo model's text of all domains";
                output::note(format_args!(
                    "{adapter}: calibrated on {name}, the Rust documentation; better on what it is used for (--text)"
                ));
                let text = String::from_utf8_lossy(demo_model::MIXED_TEXT);
                Ok(cut(engine.tokenizer("a text")?, name, &text, length)?)
            }
        }
    }

    /// What an adapter is measured on, by setting: the text, else the demo model's windows for an adapter of that name. An
    /// activated LoRA is turned on in each.
    ///
    /// # Errors
    /// If there is neither.
    pub fn evaluation(
        self,
        engine: &Engine,
        adapter: &str,
        text: Option<&Path>,
        parts: Parts,
    ) -> Result<Vec<(String, Windows)>, CliError> {
        if let Some(path) = text {
            let windows = of_text(engine, path, parts.prefix + parts.continuation)?;
            return Ok(vec![("text".into(), invoking(engine, adapter, windows))]);
        }
        let missing = |reason| CliError::NoWindows { adapter: adapter.into(), reason };
        if !self.has_same_tokens {
            return Err(missing("the model's tokenizer is not the demo model's"));
        }
        if demo_model::ADAPTERS.iter().all(|(name, _)| *name != adapter) {
            return Err(missing("the demo model has no windows for an adapter of that name"));
        }
        let of = |(setting, bytes): &demo_model::File| {
            let tensor = format!("{adapter}/input_ids");
            let windows = read_windows(&format!("the demo model's windows, {setting}"), bytes, &tensor)?;
            Ok((String::from(*setting), invoking(engine, adapter, windows)))
        };
        demo_model::EVALUATION.iter().map(of).collect()
    }
}

fn invoking(engine: &Engine, adapter: &str, windows: Windows) -> Windows {
    match engine.invocation(adapter) {
        Some(invocation) => windows.invoking(invocation),
        None => windows,
    }
}

fn of_text(engine: &Engine, path: &Path, length: usize) -> Result<Windows, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| CliError::File { path: path.to_owned(), reason: e.to_string() })?;
    Ok(cut(engine.tokenizer("a text")?, &path.display().to_string(), &text, length)?)
}
