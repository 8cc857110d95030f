//! Where lines come from: a terminal with editing and history, or a pipe or file.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::Path;

use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};

use crate::CliError;

/// A source of lines.
pub enum Lines {
    /// A person types.
    Terminal(Box<DefaultEditor>),
    /// A program has written, or writes.
    Stream(Box<dyn BufRead>),
}

/// What came.
pub enum Read {
    /// A line.
    Line(String),
    /// Something that is no line of text.
    Garbled,
    /// Ctrl-C while typing: the line is given up.
    GivenUp,
    /// No more lines.
    End,
}

impl Lines {
    /// Standard input.
    pub fn open() -> Result<Self, CliError> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self::Stream(Box::new(stdin.lock())));
        }
        let editor = DefaultEditor::new().map_err(|e| CliError::Input(e.to_string()))?;
        Ok(Self::Terminal(Box::new(editor)))
    }

    /// A file.
    pub fn file(path: &Path) -> Result<Self, CliError> {
        let opened = File::open(path);
        let refused = |reason: String| CliError::File { path: path.to_owned(), reason };
        let file = opened.map_err(|error| refused(error.to_string()))?;
        if path.is_dir() {
            return Err(refused("expected a file, found a folder".into()));
        }
        Ok(Self::Stream(Box::new(BufReader::new(file))))
    }

    /// Whether a person types.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// What prints above the line that is being typed; `None` where nobody types.
    pub fn printer(&mut self) -> Result<Option<Box<dyn ExternalPrinter + Send>>, CliError> {
        match self {
            Self::Terminal(editor) => {
                let printer = editor.create_external_printer();
                Ok(Some(Box::new(printer.map_err(|e| CliError::Input(e.to_string()))?)))
            }
            Self::Stream(_) => Ok(None),
        }
    }

    /// The next line.
    pub fn next(&mut self) -> Result<Read, CliError> {
        match self {
            Self::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    // Without a history there is only nothing to scroll back to.
                    let _ = editor.add_history_entry(line.as_str());
                    Ok(Read::Line(line))
                }
                Err(ReadlineError::Eof) => Ok(Read::End),
                Err(ReadlineError::Interrupted) => Ok(Read::GivenUp),
                Err(error) => Err(CliError::Input(error.to_string())),
            },
            Self::Stream(stream) => {
                let mut bytes = Vec::new();
                match stream.read_until(b'\n', &mut bytes) {
                    Ok(0) => Ok(Read::End),
                    Ok(_) => Ok(String::from_utf8(bytes).map_or(Read::Garbled, Read::Line)),
                    Err(error) => Err(CliError::Input(error.to_string())),
                }
            }
        }
    }
}
