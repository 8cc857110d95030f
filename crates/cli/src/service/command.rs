//! What a line of `interleaf service` says. Words in, a command out; no service.

use std::path::PathBuf;

use interleaf_runtime::{AdapterChoice, AppState, TrimLevel};

use crate::args::size;

/// A line, understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `app NAME [salt HEX]`.
    App { name: String, salt: Option<[u8; 16]> },
    /// `open APP [NUMBER] [as NAME]`.
    Open { app: String, number: Option<u64>, name: Option<String> },
    /// `call` and `say`.
    Call(Box<Call>),
    /// `wait [CONTEXT]`.
    Wait(Option<String>),
    /// `cancel CONTEXT`.
    Cancel(String),
    /// `delete CONTEXT`.
    Delete(String),
    /// `state APP STATE`.
    State { app: String, to: AppState },
    /// `trim LEVEL`.
    Trim(TrimLevel),
    /// `budget SIZE`, in bytes.
    Budget(u64),
    /// `suspend`.
    Suspend,
    /// `resume`.
    Resume,
    /// `adapters`.
    Adapters,
    /// `register NAME DIR`.
    Register { name: String, folder: PathBuf },
    /// `replace NAME DIR`.
    Replace { name: String, folder: PathBuf },
    /// `contexts`.
    Contexts,
    /// `memory`.
    Memory,
    /// `stats`.
    Stats,
    /// `sleep MS`.
    Sleep(u64),
    /// `refused COMMAND`.
    Refused(Box<Command>),
    /// `help`.
    Help,
    /// `quit`.
    Quit,
}

/// What a context is called with.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub context: String,
    /// Whether the text is a turn of a conversation; else the context goes on with it as it is.
    pub is_turn: bool,
    /// `None` for the command line's.
    pub adapter: Option<AdapterChoice>,
    pub max_tokens: Option<usize>,
    pub seed: u64,
    pub temperature: f32,
    pub drift: f32,
    pub text: String,
}

/// The commands, for `help`.
pub const HELP: [(&str, &str); 21] = [
    (
        "app NAME [salt HEX]",
        "an app starts, or comes back, in the foreground; under a salt, 32 hexadecimal digits, it shares nothing",
    ),
    (
        "open APP [NUMBER] [as NAME]",
        "a new context of an app's, or the one of a number; called APP.NUMBER unless a name is given",
    ),
    ("call CONTEXT [OPTIONS] TEXT", "goes on with TEXT as it is; does not wait for the answer"),
    (
        "say CONTEXT [OPTIONS] TEXT",
        "the same with a turn of a conversation, through the model's chat template",
    ),
    (
        "  OPTIONS",
        "adapter NAME, `none` for the base, `auto K` for one of the K that suit best; max TOKENS; seed N; temperature T; drift NATS; `:` ends them; \\n in TEXT is a new line",
    ),
    ("wait [CONTEXT]", "waits for an answer, or for all"),
    ("cancel CONTEXT", "ends its answer with what it has"),
    ("delete CONTEXT", "deletes it for good"),
    ("state APP STATE", "foreground, visible, background, cached or killed"),
    (
        "trim LEVEL",
        "gives memory back: ui-hidden keeps half of the budget, background a quarter, warning what calls use",
    ),
    ("budget SIZE", "what the cache may take of its pool, as 512KiB or 3MiB"),
    ("suspend, resume", "the GPU may not be used any more, or again"),
    ("adapters", "lists them"),
    ("register NAME DIR", "a PEFT folder, under a name"),
    ("replace NAME DIR", "another, under a name that there is: calls under way keep what they have"),
    ("contexts", "lists them, of the apps that have started"),
    ("memory, stats", "what is held by kind; what was done, and how much of it the KV cache saved"),
    ("sleep MS", "milliseconds, in which calls go on"),
    (
        "refused COMMAND",
        "carries a command out that is to be refused, or whose answer is to fail, and says how",
    ),
    ("help", "this list"),
    ("quit", "ends; what is under way is cancelled, for which Ctrl-C does while it is waited for"),
];

/// Words of a line, in turn.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start();
        let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        self.0 = rest;
        Some(word).filter(|word| !word.is_empty())
    }

    fn need(&mut self, what: &str) -> Result<&'a str, String> {
        self.next().ok_or_else(|| format!("expected {what}"))
    }

    /// Whether this is the next word; it is taken then.
    fn takes(&mut self, word: &str) -> bool {
        let mut ahead = Words(self.0);
        let is_it = ahead.next() == Some(word);
        if is_it {
            self.0 = ahead.0;
        }
        is_it
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.need(what)?;
        word.parse().map_err(|_| format!("expected {what}, found {word:?}"))
    }

    /// What is left, as it is.
    fn rest(&mut self) -> &'a str {
        std::mem::take(&mut self.0).trim()
    }

    fn end<T>(&mut self, value: T) -> Result<T, String> {
        self.next().map_or(Ok(value), |word| Err(format!("expected the end of the line, found {word:?}")))
    }
}

/// Understands a line; `None` where there is nothing to do.
///
/// # Errors
/// What was expected, and what was found.
pub fn parse(line: &str) -> Result<Option<Command>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    // Names come back on the screen, which would obey them.
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err("expected text without control characters".into());
    }
    let mut words = Words(line);
    let word = words.need("a command")?;
    let words = &mut words;
    let command = match word {
        "app" => {
            let name = words.need("an app's name")?.to_owned();
            let salt = if words.takes("salt") { Some(salt(words.need("a salt")?)?) } else { None };
            Command::App { name, salt }
        }
        "open" => {
            let app = words.need("an app's name")?.to_owned();
            let mut ahead = Words(words.0);
            let is_number = ahead.next().is_some_and(|word| word != "as");
            let number = if is_number { Some(words.number("a context's number")?) } else { None };
            let name = if words.takes("as") { Some(words.need("a name")?.to_owned()) } else { None };
            Command::Open { app, number, name }
        }
        "call" | "say" => Command::Call(Box::new(call(words, word == "say")?)),
        "wait" => Command::Wait(words.next().map(Into::into)),
        "cancel" => Command::Cancel(words.need("a context's name")?.into()),
        "delete" => Command::Delete(words.need("a context's name")?.into()),
        "state" => {
            let app = words.need("an app's name")?.to_owned();
            Command::State { app, to: one_of(&STATES, words)? }
        }
        "trim" => Command::Trim(one_of(&LEVELS, words)?),
        "budget" => Command::Budget(size(words.need("a size, as 3MiB")?)?),
        "suspend" => Command::Suspend,
        "resume" => Command::Resume,
        "adapters" => Command::Adapters,
        "register" => {
            let (name, folder) = adapter(words)?;
            Command::Register { name, folder }
        }
        "replace" => {
            let (name, folder) = adapter(words)?;
            Command::Replace { name, folder }
        }
        "contexts" => Command::Contexts,
        "memory" => Command::Memory,
        "stats" => Command::Stats,
        "sleep" => Command::Sleep(words.number("milliseconds")?),
        "refused" => {
            let command = parse(words.rest())?.ok_or("expected a command")?;
            Command::Refused(Box::new(command))
        }
        "help" => Command::Help,
        "quit" | "exit" => Command::Quit,
        _ => return Err("no such command; `help` lists them".into()),
    };
    words.end(Some(command))
}

/// An adapter's name and its folder.
fn adapter(words: &mut Words<'_>) -> Result<(String, PathBuf), String> {
    let name = words.need("an adapter's name")?;
    match name {
        "none" => return Err("none is the base model's name".into()),
        "auto" => return Err("auto leaves the choice to the router".into()),
        _ => {}
    }
    let folder = words.rest();
    if folder.is_empty() { Err("expected a folder".into()) } else { Ok((name.into(), folder.into())) }
}

fn call(words: &mut Words<'_>, is_turn: bool) -> Result<Call, String> {
    let mut call = Call {
        context: words.need("a context's name")?.into(),
        is_turn,
        adapter: None,
        max_tokens: None,
        seed: 0,
        temperature: 0.0,
        drift: 0.0,
        text: String::new(),
    };
    loop {
        if words.takes("adapter") {
            let name = words.need("an adapter's name")?;
            call.adapter = Some(match name {
                "none" => AdapterChoice::Base,
                "auto" => AdapterChoice::Auto { k: words.number("from how many adapters to choose")? },
                name => AdapterChoice::Named(name.into()),
            });
        } else if words.takes("max") {
            call.max_tokens = Some(words.number("a number of tokens")?);
        } else if words.takes("seed") {
            call.seed = words.number("a seed")?;
        } else if words.takes("temperature") {
            call.temperature = words.number("a temperature")?;
        } else if words.takes("drift") {
            call.drift = words.number("a divergence in nats")?;
        } else {
            break;
        }
    }
    words.takes(":");
    call.text = unescape(words.rest());
    if call.text.is_empty() { Err("expected a text".into()) } else { Ok(call) }
}

/// `\n` is a new line, `\\` a backslash, and what else follows one stays as it is.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, rest.clone().next()) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('\\')) => out.push('\\'),
            _ => {
                out.push(c);
                continue;
            }
        }
        rest.next();
    }
    out
}

const STATES: [(&str, AppState); 5] = [
    ("foreground", AppState::Foreground),
    ("visible", AppState::Visible),
    ("background", AppState::Background),
    ("cached", AppState::Cached),
    ("killed", AppState::Killed),
];

const LEVELS: [(&str, TrimLevel); 3] = [
    ("ui-hidden", TrimLevel::UiHidden),
    ("background", TrimLevel::Background),
    ("warning", TrimLevel::Warning),
];

fn one_of<T: Copy>(all: &[(&str, T)], words: &mut Words<'_>) -> Result<T, String> {
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let expected = format!("one of {}", names.join(", "));
    let word = words.need(&expected)?;
    let found = all.iter().find(|(name, _)| *name == word);
    found.map(|(_, value)| *value).ok_or_else(|| format!("expected {expected}, found {word:?}"))
}

fn salt(hex: &str) -> Result<[u8; 16], String> {
    let refused = || format!("expected a salt of 32 hexadecimal digits, found {hex:?}");
    if hex.len() != 32 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(refused());
    }
    u128::from_str_radix(hex, 16).map(u128::to_be_bytes).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Command {
        parse(line).expect(line).expect("a command")
    }

    fn plain(context: &str, text: &str) -> Call {
        Call {
            context: context.into(),
            is_turn: false,
            adapter: None,
            max_tokens: None,
            seed: 0,
            temperature: 0.0,
            drift: 0.0,
            text: text.into(),
        }
    }

    #[test]
    fn lines_are_commands() {
        let mail = || "mail".to_owned();
        let mut salt = [0; 16];
        salt[15] = 0xa1;
        for (line, expected) in [
            ("app mail", Command::App { name: mail(), salt: None }),
            (
                " app mail salt 000000000000000000000000000000A1 ",
                Command::App { name: mail(), salt: Some(salt) },
            ),
            ("open mail", Command::Open { app: mail(), number: None, name: None }),
            ("open mail as a", Command::Open { app: mail(), number: None, name: Some("a".into()) }),
            ("open mail 7 as a", Command::Open { app: mail(), number: Some(7), name: Some("a".into()) }),
            ("wait", Command::Wait(None)),
            ("wait a", Command::Wait(Some("a".into()))),
            ("state mail cached", Command::State { app: mail(), to: AppState::Cached }),
            ("trim ui-hidden", Command::Trim(TrimLevel::UiHidden)),
            ("budget 3MiB", Command::Budget(3 << 20)),
            ("budget 0", Command::Budget(0)),
            ("replace a b", Command::Replace { name: "a".into(), folder: "b".into() }),
            ("register a b c", Command::Register { name: "a".into(), folder: "b c".into() }),
            ("sleep 20", Command::Sleep(20)),
            ("refused cancel a", Command::Refused(Box::new(Command::Cancel("a".into())))),
            ("exit", Command::Quit),
        ] {
            assert_eq!(command(line), expected, "{line}");
        }
        assert_eq!((parse("  "), parse("# a remark")), (Ok(None), Ok(None)));
    }

    #[test]
    fn calls_have_options_before_their_text() {
        let call = |line: &str| match command(line) {
            Command::Call(call) => *call,
            other => panic!("{other:?}"),
        };
        assert_eq!(call("call a  Dear  Ada, "), plain("a", "Dear  Ada,"));
        assert_eq!(call("call a : max power"), plain("a", "max power"));
        assert_eq!(call(r"call a one\ntwo \\n \t"), plain("a", "one\ntwo \\n \\t"));
        let options = call("say a adapter x max 3 seed 4 temperature 0.5 drift 1e-3 : adapter y");
        let expected = Call {
            is_turn: true,
            adapter: Some(AdapterChoice::Named("x".into())),
            max_tokens: Some(3),
            seed: 4,
            temperature: 0.5,
            drift: 1e-3,
            ..plain("a", "adapter y")
        };
        assert_eq!(options, expected);
        assert_eq!(call("call a adapter none x").adapter, Some(AdapterChoice::Base));
        assert_eq!(call("call a adapter auto 3 x").adapter, Some(AdapterChoice::Auto { k: 3 }));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, words) in [
            ("sing", "no such command"),
            ("app", "expected an app's name"),
            ("app mail salt 12", "32 hexadecimal digits, found \"12\""),
            ("app mail now", "expected the end of the line, found \"now\""),
            ("open mail x", "expected a context's number, found \"x\""),
            ("call a", "expected a text"),
            ("call a max x y", "expected a number of tokens, found \"x\""),
            (
                "state mail gone",
                "expected one of foreground, visible, background, cached, killed, found \"gone\"",
            ),
            ("trim", "expected one of ui-hidden, background, warning"),
            ("budget 3MB", "expected a size"),
            ("budget 99999999999GiB", "expected a size"),
            ("register none x", "none is the base model's name"),
            ("register a", "expected a folder"),
            ("replace auto x", "auto leaves the choice to the router"),
            ("call a adapter auto x", "expected from how many adapters to choose, found \"x\""),
            ("sleep", "expected milliseconds"),
            ("refused", "expected a command"),
        ] {
            let found = parse(line).expect_err(line);
            assert!(found.contains(words), "{line}: {found}");
        }
    }

    #[test]
    fn every_command_is_in_the_help() {
        let named: Vec<&str> = HELP.iter().flat_map(|(command, _)| command.split(", ")).collect();
        for word in named.iter().filter(|at| !at.starts_with(' ')).filter_map(|at| at.split(' ').next()) {
            assert!(!matches!(parse(word), Err(why) if why.contains("no such command")), "{word}");
        }
    }
}
