//! Rows whose token the device chose itself: how a step says so, and what the step before has to have for it. The
//! host need not have read that token; who submits, and what becomes of the answer, is not known here.

use crate::{ContractError, Op, RowKind, Step, StepOutput};

/// A row whose token is the one that the step submitted just before chose for one of its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chained {
    /// Index into [`Batch::rows`](crate::Batch::rows) of a generated row; its own token is not read.
    pub row: u32,
    /// Index into the outputs of the step before, to one that has a sampler.
    pub output: u32,
}

/// What a step chooses: the tokens that the next one may be chained to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choices {
    outputs: Vec<u32>,
    vocabulary: u32,
}

impl Choices {
    /// Those of a step, by its last [`Op::Sample`]; none without one.
    #[must_use]
    pub fn of(step: &Step) -> Self {
        let sampled = step.ops().iter().rev().find_map(|op| match op {
            Op::Sample { logits } => Some(logits.cols),
            _ => None,
        });
        let Some(vocabulary) = sampled else { return Self::default() };
        let outputs = step.batch().outputs.iter().zip(0_u32..);
        let outputs = outputs.filter(|(output, _)| output.sampler.is_some()).map(|(_, i)| i);
        Self { outputs: outputs.collect(), vocabulary }
    }

    /// Tokens are below this.
    #[must_use]
    pub const fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Where an output's token stands among those that the step chooses.
    ///
    /// # Errors
    /// If the step chooses none for it.
    pub fn place(&self, output: u32) -> Result<usize, ContractError> {
        self.outputs.binary_search(&output).map_err(|_| ContractError::NothingChosen { output })
    }

    /// The tokens that were chosen, each at its place. 0 stands where there is none: a table that is looked up by it
    /// has that one.
    pub(crate) fn tokens(&self, found: &StepOutput) -> Vec<u32> {
        let of = |output: &u32| found.tokens.iter().rev().find(|sampled| sampled.output == *output);
        self.outputs.iter().map(|output| of(output).and_then(|sampled| sampled.token).unwrap_or(0)).collect()
    }
}

/// Checks that chained rows are in the batch, ascending and generated.
pub(crate) fn check(chained: &[Chained], rows: &[crate::Row]) -> Result<(), ContractError> {
    for &Chained { row, .. } in chained {
        let (index, len) = (row as usize, rows.len());
        let out_of_range = ContractError::OutOfRange { what: "chained row", index, len };
        if rows.get(index).ok_or(out_of_range)?.kind != RowKind::Generated {
            return Err(refused("generated", row));
        }
    }
    match chained.windows(2).find(|pair| pair[1].row <= pair[0].row) {
        Some(pair) => Err(refused("ascending", pair[1].row)),
        None => Ok(()),
    }
}

fn refused(expected: &'static str, row: u32) -> ContractError {
    ContractError::Value { op: "batch", what: "a chained row", expected, found: f64::from(row) }
}
