//! Composes WGSL from the files of `shaders/` by plain text substitution. Knows no kernel.
//!
//! Three forms, each on a line of its own but the last:
//!
//! - `#include "path" [NAME=value ...]` puts a file in its place, with further constants for it;
//! - `#repeat name count` … `#end` writes its lines `count` times with `${name}` from 0: register tiles
//!   get names of their own, because phones spill or miscompile indexed private arrays;
//! - `${NAME}` is replaced by a constant.

use std::fmt;

/// Files include each other at most this deep; more is a cycle.
const DEEPEST: usize = 8;

/// A template that cannot be composed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ComposeError {
    line: String,
    reason: &'static str,
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?}", self.reason, self.line)
    }
}

/// Composes the file `name` of `files`.
pub(crate) fn compose(
    files: &[(&str, &str)],
    name: &str,
    constants: &[(&str, String)],
) -> Result<String, ComposeError> {
    let scope = constants.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
    let mut composer = Composer { files, scope, out: String::new() };
    composer.include(name, 0)?;
    Ok(composer.out)
}

struct Composer<'a> {
    files: &'a [(&'a str, &'a str)],
    /// Constants, the innermost last.
    scope: Vec<(String, String)>,
    out: String,
}

impl Composer<'_> {
    fn include(&mut self, name: &str, depth: usize) -> Result<(), ComposeError> {
        let failed = |reason| ComposeError { line: name.to_owned(), reason };
        if depth == DEEPEST {
            return Err(failed("files include each other too deep"));
        }
        let (_, text) = self.files.iter().find(|(path, _)| *path == name).ok_or(failed("no such file"))?;
        self.expand(&text.lines().collect::<Vec<_>>(), depth)
    }

    fn expand(&mut self, lines: &[&str], depth: usize) -> Result<(), ComposeError> {
        let mut at = 0;
        while let Some(&raw) = lines.get(at) {
            at += 1;
            let failed = |reason| ComposeError { line: raw.to_owned(), reason };
            let line = self.substitute(raw)?;
            let outer = self.scope.len();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("#include") => {
                    let name = words.next().ok_or(failed("no file is named"))?.trim_matches('"');
                    for pair in words {
                        let (n, v) = pair.split_once('=').ok_or(failed("expected NAME=value"))?;
                        self.scope.push((n.to_owned(), v.to_owned()));
                    }
                    self.include(name, depth + 1)?;
                }
                Some("#repeat") => {
                    let name = words.next().ok_or(failed("no name to count with"))?;
                    let count = words.next().and_then(|w| w.parse().ok()).ok_or(failed("no count"))?;
                    let length = block_length(&lines[at..]).ok_or(failed("no #end"))?;
                    for i in 0_usize..count {
                        self.scope.push((name.to_owned(), i.to_string()));
                        self.expand(&lines[at..at + length], depth)?;
                    }
                    at += length + 1;
                }
                Some(word) if word.starts_with('#') => return Err(failed("unknown directive")),
                _ => self.out.extend([&line, "\n"]),
            }
            self.scope.truncate(outer);
        }
        Ok(())
    }

    /// Replaces every `${NAME}`; the innermost constant of that name counts.
    fn substitute(&self, line: &str) -> Result<String, ComposeError> {
        let failed = |reason| ComposeError { line: line.to_owned(), reason };
        let (mut out, mut rest) = (String::new(), line);
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').ok_or(failed("${ without }"))?;
            let (_, value) =
                self.scope.iter().rev().find(|(n, _)| n == name).ok_or(failed("unknown constant"))?;
            out.extend([before, value]);
            rest = after;
        }
        Ok(out + rest)
    }
}

/// Lines before the `#end` that closes a block.
fn block_length(lines: &[&str]) -> Option<usize> {
    let mut open = 1;
    lines.iter().position(|line| {
        match line.split_whitespace().next() {
            Some("#repeat") => open += 1,
            Some("#end") => open -= 1,
            _ => {}
        }
        open == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(&str, &str); 4] = [
        ("top", "a ${N}\n#include \"lib/${KIND}\" N=2\nb ${N}"),
        ("lib/one", "in ${N}\n#repeat i 2\n#repeat j ${N}\n${i}${j}\n#end\n#end"),
        ("cycle", "#include \"cycle\""),
        ("open", "#repeat i 2\nx"),
    ];

    fn text(name: &str, constants: &[(&str, &str)]) -> Result<String, ComposeError> {
        let constants: Vec<_> = constants.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        compose(&FILES, name, &constants)
    }

    #[test]
    fn constants_are_scoped_and_blocks_repeat() {
        let found = text("top", &[("N", "1"), ("KIND", "one")]).unwrap();
        assert_eq!(found, "a 1\nin 2\n00\n01\n10\n11\nb 1\n");
    }

    #[test]
    fn mistakes_are_errors() {
        let reason = |name, constants: &[_]| text(name, constants).unwrap_err().reason;
        assert_eq!(reason("top", &[]), "unknown constant");
        assert_eq!(reason("top", &[("N", "1"), ("KIND", "two")]), "no such file");
        assert_eq!(reason("cycle", &[]), "files include each other too deep");
        assert_eq!(reason("open", &[]), "no #end");
    }
}
