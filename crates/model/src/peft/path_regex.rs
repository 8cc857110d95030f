//! Python regexes from a config, matched with the paths of modules.
//!
//! A config may come from anybody, so a regex that would take long is an error and never a wait. Knows no
//! field.

use fancy_regex::{Captures, Expr, Regex, RegexBuilder};

/// The longest regex that is compiled, in bytes: enough to name every module of a large model.
const MAX_LENGTH: usize = 1 << 16;
/// The largest product of nested least repetitions, `{n}`. Those of what matches nothing are walked through
/// one by one, and a path has no hundred parts to repeat.
const MAX_REPEATS: usize = 100;
/// How often a match may turn back. Paths are short: an honest regex does so some hundred times.
const MAX_BACKTRACKS: usize = 10_000;
/// Instructions that a regex may compile to.
const MAX_INSTRUCTIONS: usize = 100_000;

/// Bytes of an automaton that a regex may compile to: any path and any choice of numbers needs less.
const SMALL: usize = 32 << 10;
/// Bytes that a few may compile to, such as those of `\w`, which is all of Unicode.
const LARGE: usize = 1 << 20;
/// How many those are. A key of ten bytes can ask for megabytes, and a file holds many keys.
const MANY: usize = 16;

/// The most regexes of one field: a large model has not so many modules, and each holds tens of kilobytes.
const MOST: usize = 1024;

/// What the regexes of one field have used up.
#[derive(Debug, Default)]
pub(super) struct Budget {
    regexes: usize,
    large: usize,
}

/// A compiled regex.
#[derive(Debug)]
pub(super) struct PathRegex(Regex);

impl PathRegex {
    /// A regex that matches from a path's first character on, as `re.match` does. The error says what it is
    /// not.
    pub fn prefix(pattern: &str, budget: &mut Budget) -> Result<Self, String> {
        Self::compile(pattern, "", budget)
    }

    /// A regex that matches a whole path, as `re.fullmatch` does.
    pub fn whole(pattern: &str, budget: &mut Budget) -> Result<Self, String> {
        Self::compile(pattern, r"\z", budget)
    }

    fn compile(pattern: &str, end: &str, budget: &mut Budget) -> Result<Self, String> {
        budget.regexes += 1;
        if budget.regexes > MOST {
            return Err(format!("one of at most {MOST} regexes"));
        }
        if pattern.len() > MAX_LENGTH {
            return Err(format!("a regex of at most {MAX_LENGTH} bytes"));
        }
        // Sets of characters are combined so here, and spelled so in Python.
        if ["&&", "~~"].iter().any(|operator| pattern.contains(operator)) {
            return Err("a Python regex without && and ~~".into());
        }
        let invalid = |error: fancy_regex::Error| format!("a regex ({error})");
        // On its own, so that it cannot close the group that is put around it.
        let tree = Expr::parse_tree(pattern).map_err(invalid)?;
        if repeats(&tree.expr).is_none_or(|product| product > MAX_REPEATS) {
            return Err(format!("a Python regex that repeats nothing over {MAX_REPEATS} times"));
        }
        let build = |bytes: usize| {
            RegexBuilder::new(&format!(r"\A(?:{pattern}){end}"))
                .backtrack_limit(MAX_BACKTRACKS)
                .delegate_size_limit(bytes)
                .delegate_dfa_size_limit(bytes)
                .max_prog_size(MAX_INSTRUCTIONS)
                .build()
        };
        let small = build(SMALL).or_else(|error| {
            budget.large += 1;
            if budget.large > MANY { Err(error) } else { build(LARGE) }
        });
        small.map(Self).map_err(invalid)
    }

    /// Whether a path matches.
    pub fn is_match(&self, path: &str) -> Result<bool, String> {
        self.0.is_match(path).map_err(|error| unmatchable(path, &error))
    }

    /// The groups of a path's match.
    pub fn captures<'a>(&self, path: &'a str) -> Result<Option<Captures<'a, str>>, String> {
        self.0.captures(path).map_err(|error| unmatchable(path, &error))
    }
}

fn unmatchable(path: &str, error: &fancy_regex::Error) -> String {
    format!("a regex that can be matched with {path} ({error})")
}

/// The largest product of nested least repetitions; `None` if there is a call of a group, which Python does
/// not have and which would hide some.
fn repeats(expr: &Expr) -> Option<usize> {
    let own = match expr {
        Expr::SubroutineCall(_) => return None,
        Expr::Repeat { lo, .. } => (*lo).max(1),
        _ => 1,
    };
    let mut inner = 1;
    for child in expr.children_iter() {
        inner = inner.max(repeats(child)?);
    }
    Some(own.saturating_mul(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "model.layers.11.self_attn.q_proj";

    #[test]
    fn anchors_are_those_of_match_and_fullmatch() {
        for (pattern, prefix, whole) in [
            ("model", true, false),
            ("layers", false, false),
            (r".*q_proj", true, true),
            ("model|.*q_proj", true, true),
            ("q_proj|model", true, false),
            (r"^model.*_proj$", true, true),
            (r"(?i)MODEL.*", true, true),
            (r"(m)odel.*(?!\1)q_proj", true, true),
        ] {
            assert_eq!(
                PathRegex::prefix(pattern, &mut Budget::default()).unwrap().is_match(PATH),
                Ok(prefix),
                "{pattern}"
            );
            assert_eq!(
                PathRegex::whole(pattern, &mut Budget::default()).unwrap().is_match(PATH),
                Ok(whole),
                "{pattern}"
            );
        }
    }

    #[test]
    fn what_is_no_regex_or_too_much_of_one_is_an_error() {
        for pattern in [
            "q_(",
            "model)|(?:.*",
            "[",
            "[a-z&&[^q]]_proj",
            &"(".repeat(5000),
            &"(?=".repeat(5000),
            &"a|".repeat(200_000),
            &"(m|o){0,60000}".repeat(50),
            r"\w{1000}{1000}{1000}",
            r"((?=m)){4000000000}.*",
            r"(((?=m)){60}){60}.*",
            r"((?=m)x?)(?:\g<1>)*.*",
            "(m(?=o))(\\g<1>\\g<1>)(\\g<2>\\g<2>)(\\g<3>\\g<3>)",
        ] {
            assert!(
                PathRegex::whole(pattern, &mut Budget::default()).is_err(),
                "{}",
                &pattern[..pattern.len().min(40)]
            );
        }
    }

    #[test]
    fn a_field_has_a_bounded_number_of_regexes() {
        let mut budget = Budget::default();
        for _ in 0..MOST {
            assert!(PathRegex::prefix(PATH, &mut budget).is_ok());
        }
        assert!(PathRegex::prefix(PATH, &mut budget).unwrap_err().contains("at most 1024"));
    }

    #[test]
    fn turning_back_too_often_is_an_error() {
        for pattern in [r"(.*.*.*.*.*)*x(?=y)", r"((?=m)|.)*(.*)*\1x", r"(?:(?=m)|.*)*(?:.*(?=.)){9}\1()z"] {
            let found = PathRegex::whole(pattern, &mut Budget::default()).unwrap().is_match(PATH);
            assert!(found.unwrap_err().contains(PATH), "{pattern}");
        }
    }
}
