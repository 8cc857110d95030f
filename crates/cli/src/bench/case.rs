//! What is measured: the combinations of what the command line lists, checked before anything is loaded.

use crate::CliError;
use crate::args::BenchArgs;

/// What a row times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// One sequence reads so many tokens; the logits of the last are wanted.
    Prompt(usize),
    /// Every sequence generates so many tokens, one after the other.
    Generate(usize),
}

impl Test {
    /// Tokens of each sequence.
    pub fn tokens(self) -> usize {
        match self {
            Self::Prompt(tokens) | Self::Generate(tokens) => tokens,
        }
    }

    /// As llama-bench names it.
    pub fn name(self) -> String {
        match self {
            Self::Prompt(tokens) => format!("pp{tokens}"),
            Self::Generate(tokens) => format!("tg{tokens}"),
        }
    }
}

/// A row, but for what the engine is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// What is timed.
    pub test: Test,
    /// Sequences side by side.
    pub batch: usize,
    /// Adapters that the sequences take in turn.
    pub adapters: usize,
    /// Tokens that each sequence has before.
    pub depth: usize,
}

impl Case {
    /// The adapter of a sequence.
    pub fn adapter(&self, sequence: usize) -> Option<String> {
        (self.adapters > 0).then(|| adapter(sequence % self.adapters))
    }

    /// Adapters that the sequences use.
    pub fn adapters_in_use(&self) -> usize {
        self.adapters.min(self.batch)
    }
}

/// The name of a generated adapter.
pub fn adapter(index: usize) -> String {
    format!("generated-{index}")
}

/// Every combination, for a model of so many positions.
pub fn all(args: &BenchArgs, positions: usize) -> Result<Vec<Case>, CliError> {
    for (option, value) in [
        ("--repetitions", args.repetitions),
        ("--rank", args.rank),
        ("--prefill-rows", args.prefill_rows),
        ("--batch", args.batch.iter().copied().min().unwrap_or(0)),
    ] {
        if value == 0 {
            return Err(CliError::Usage(format!("{option} must be at least 1, found 0")));
        }
    }
    if args.in_turn && !(args.adapters.contains(&0) && args.adapters.iter().any(|&n| n > 0)) {
        let message = "--in-turn sets rows with adapters beside those without: --adapters must list 0 and another number";
        return Err(CliError::Usage(message.into()));
    }
    let mut cases = Vec::new();
    for &depth in &args.depth {
        for &adapters in &args.adapters {
            let prompts = args.prompt.iter().map(|&tokens| (Test::Prompt(tokens), 1));
            let generate = |&tokens| args.batch.iter().map(move |&batch| (Test::Generate(tokens), batch));
            for (test, batch) in prompts.chain(args.generate.iter().flat_map(generate)) {
                if test.tokens() == 0 {
                    continue;
                }
                check_room(test, depth, positions)?;
                cases.push(Case { test, batch, adapters, depth });
            }
        }
    }
    if cases.is_empty() {
        return Err(CliError::Usage("--prompt and --generate are both 0: nothing is to be measured".into()));
    }
    Ok(cases)
}

/// Cases that are measured together: with `in_turn` those that differ in adapters alone, else each by itself.
pub fn together(cases: &[Case], in_turn: bool) -> Vec<Vec<Case>> {
    let mut groups: Vec<Vec<Case>> = Vec::new();
    for &case in cases {
        let like = |group: &&mut Vec<Case>| in_turn && Case { adapters: case.adapters, ..group[0] } == case;
        match groups.iter_mut().find(like) {
            Some(group) => group.push(case),
            None => groups.push(vec![case]),
        }
    }
    groups
}

/// Checks that a model of so many positions has them for a test.
fn check_room(test: Test, depth: usize, positions: usize) -> Result<(), CliError> {
    let (name, tokens) = (test.name(), test.tokens());
    let needed = depth.saturating_add(tokens);
    if needed <= positions {
        return Ok(());
    }
    let (option, most) = match test {
        _ if tokens <= positions => ("--depth", positions - tokens),
        Test::Prompt(_) => ("--prompt", positions),
        Test::Generate(_) => ("--generate", positions),
    };
    Err(CliError::Usage(format!(
        "{name} at --depth {depth} needs {needed} positions, but the model has {positions}: {option} must be at \
         most {most}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_that_differ_in_adapters_alone_go_together() {
        let case = |batch, adapters| Case { test: Test::Generate(8), batch, adapters, depth: 0 };
        let cases = [case(1, 0), case(16, 0), case(1, 4), case(16, 4)];
        let expected = vec![vec![case(1, 0), case(1, 4)], vec![case(16, 0), case(16, 4)]];
        assert_eq!(together(&cases, true), expected);
        assert_eq!(together(&cases, false), cases.map(|case| vec![case]));
    }
}
