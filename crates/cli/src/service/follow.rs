//! Answers on their way to the reader: whole lines under their context's name, so that those of several are told apart.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use interleaf_runtime::{Answer, Completion, Generation, Progress, ServiceError};

use super::printer::Printer;
use crate::{CliError, first_touch, generate};

/// The widest line of an answer, in characters.
const WIDTH: usize = 88;

/// The end of a context's call.
pub type End = (String, Result<Answer, ServiceError>);

/// Prints an answer as it comes, on a thread of its own, and then tells of its end.
///
/// # Errors
/// If the system starts no thread.
pub fn follow(
    context: String,
    generation: Arc<Generation>,
    printer: Printer,
    ends: Sender<End>,
) -> Result<(), CliError> {
    let print = move || {
        let mut text = Lines::default();
        let label = console::style(context.clone()).bold().cyan();
        while let Some(progress) = generation.next() {
            match progress {
                Progress::Text { text: more, .. } => {
                    text.push(&more).for_each(|line| printer.line(format_args!("{label} | {line}")));
                }
                Progress::Forgotten { tokens } => {
                    printer.line(format_args!("{label} ~ {tokens} tokens of it are forgotten"));
                }
                Progress::Adapter { name } => {
                    let name = name.as_deref().unwrap_or("the base");
                    printer.line(format_args!("{label} ~ {name} answers"));
                }
                Progress::Prefill { .. } => {}
            }
        }
        text.rest().into_iter().for_each(|line| printer.line(format_args!("{label} | {line}")));
        let Some(end) = generation.end() else { return };
        match &end {
            Ok(answer) => summary(&answer.completion)
                .into_iter()
                .for_each(|line| printer.line(format_args!("{label} = {line}"))),
            Err(error) => printer.line(format_args!("{label} ! {error}")),
        }
        // Where nobody waits for it any more nobody has to know.
        let _ = ends.send((context, end));
    };
    std::thread::Builder::new().name("interleaf-follow".into()).spawn(print)?;
    Ok(())
}

fn summary(answer: &Completion) -> Vec<String> {
    let first = generate::ttft_ms(answer).map(|ms| format!("; first after {ms:.1} ms")).unwrap_or_default();
    let read = generate::reuse(answer.prompt_tokens, answer.reused_tokens) + &generate::drift(answer);
    let (tokens, reason) = (answer.tokens.len(), answer.reason.name().replace('_', " "));
    // There is no rate of one.
    let rate = answer.tokens_per_second();
    let rate = if tokens > 1 { format!(", then {rate:.1} tokens/s") } else { String::new() };
    let said = format!("{tokens} tokens ({reason}) after {read}{first}{rate}");
    [Some(said), first_touch::line(answer.first_touch)].into_iter().flatten().collect()
}

/// Text in lines of a width, wherever its pieces end.
#[derive(Debug, Default)]
struct Lines {
    rest: String,
}

impl Lines {
    /// The lines that are whole with more text.
    fn push(&mut self, text: &str) -> impl Iterator<Item = String> {
        self.rest.push_str(text);
        std::iter::from_fn(|| self.cut())
    }

    /// What is left; `None` if nothing is.
    fn rest(self) -> Option<String> {
        Some(clean(&self.rest)).filter(|rest| !rest.is_empty())
    }

    fn cut(&mut self) -> Option<String> {
        let wide = self.rest.char_indices().nth(WIDTH).map(|(at, _)| at);
        let head = &self.rest[..wide.unwrap_or(self.rest.len())];
        let (end, next) = match (head.find('\n'), wide) {
            (Some(at), _) => (at, at + 1),
            (None, None) => return None,
            // Behind the last blank, or in the middle of a word that is too long.
            (None, Some(wide)) => {
                head.rfind(' ').filter(|at| *at > 0).map_or((wide, wide), |at| (at, at + 1))
            }
        };
        let line = clean(&self.rest[..end]);
        self.rest.drain(..next);
        Some(line)
    }
}

/// Without what a terminal would obey.
pub fn clean(line: &str) -> String {
    line.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&str]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut all: Vec<String> =
            pieces.iter().flat_map(|piece| lines.push(piece).collect::<Vec<_>>()).collect();
        all.extend(lines.rest());
        all
    }

    #[test]
    fn lines_are_the_same_however_their_text_came() {
        let long = "word ".repeat(40) + &"x".repeat(100) + "\n\na\u{1b}[1mb\ttail";
        let whole = lines(&[&long]);
        let pieces: Vec<String> = long.chars().map(String::from).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(lines(&pieces), whole);
        assert!(whole.iter().all(|line| line.chars().count() <= WIDTH), "{whole:?}");
        assert_eq!(whole.last().unwrap(), "a [1mb tail");
        assert_eq!(whole.iter().filter(|line| line.is_empty()).count(), 1);
        assert_eq!(lines(&["", "\n"]), [""]);
        assert!(lines(&[]).is_empty());
    }
}
