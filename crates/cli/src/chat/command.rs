//! What may be typed at the prompt: words to the model, or a command.

/// A line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Nothing to do.
    Empty,
    /// Words to the model.
    Say(String),
    /// `/adapter`: list them.
    Adapters,
    /// `/adapter NAME`: `None` for the base model.
    Adapter(Option<String>),
    /// `/system`: take the system message away; `/system TEXT`: set it.
    System(Option<String>),
    /// `/reset`: forget the conversation.
    Reset,
    /// `/stats`: numbers.
    Stats,
    /// `/help`.
    Help,
    /// `/quit`.
    Quit,
    /// A command that there is not.
    Unknown(String),
}

/// The commands, for `/help`.
pub const HELP: [(&str, &str); 7] = [
    ("/adapter", "list the adapters"),
    ("/adapter NAME", "answer with this adapter from now on; `none` for the base model"),
    ("/system TEXT", "set the system message; without TEXT take it away"),
    ("/reset", "forget the conversation, keep adapter and system message"),
    ("/stats", "what the last answer and the conversation cost, and what the KV cache saved"),
    ("/help", "this list"),
    ("/quit", "end, as Ctrl-D does; Ctrl-C ends an answer, or gives up a line"),
];

/// Understands a line. Words that begin with a slash are written with two.
pub fn parse(line: &str) -> Line {
    let line = line.trim();
    let Some(command) = line.strip_prefix('/') else {
        return if line.is_empty() { Line::Empty } else { Line::Say(line.into()) };
    };
    if command.starts_with('/') {
        return Line::Say(command.into());
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
    match (name, rest) {
        ("adapter", None) => Line::Adapters,
        ("adapter", Some("none")) => Line::Adapter(None),
        ("adapter", Some(name)) => Line::Adapter(Some(name.into())),
        ("system", text) => Line::System(text.map(str::to_owned)),
        ("reset", None) => Line::Reset,
        ("stats", None) => Line::Stats,
        ("help", None) => Line::Help,
        ("quit" | "exit", None) => Line::Quit,
        _ => Line::Unknown(line.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_words_or_commands() {
        for (text, expected) in [
            ("  ", Line::Empty),
            (" What is a trait? ", Line::Say("What is a trait?".into())),
            ("//etc/hosts", Line::Say("/etc/hosts".into())),
            ("/adapter", Line::Adapters),
            ("/adapter none", Line::Adapter(None)),
            ("/adapter  rust-code ", Line::Adapter(Some("rust-code".into()))),
            ("/system Be brief.", Line::System(Some("Be brief.".into()))),
            ("/system", Line::System(None)),
            ("/reset", Line::Reset),
            ("/stats", Line::Stats),
            ("/help", Line::Help),
            ("/quit", Line::Quit),
            ("/exit", Line::Quit),
            ("/resets", Line::Unknown("/resets".into())),
            ("/reset now", Line::Unknown("/reset now".into())),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_command_is_in_the_help() {
        for (command, _) in HELP {
            assert!(!matches!(parse(command), Line::Unknown(_) | Line::Say(_)), "{command}");
        }
    }
}
