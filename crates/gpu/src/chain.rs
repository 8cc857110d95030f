//! What a step chose, left on the device: the next step's tokens are copied from there, before any kernel reads them,
//! and the host has not seen them. The choosing is in `sample`, the reading in `embed`.

use interleaf_contract::{BackendError, Chained, Choices};

use crate::command::{Place, Recording};

/// What the step submitted last chose, for those of its outputs that have a sampler.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    choices: Choices,
    tokens: Option<wgpu::Buffer>,
}

impl Chosen {
    pub(crate) const fn new(choices: Choices, tokens: Option<wgpu::Buffer>) -> Self {
        Self { choices, tokens }
    }

    pub(crate) const fn choices(&self) -> &Choices {
        &self.choices
    }

    /// The buffer that must outlive the next step's recording.
    pub(crate) const fn buffer(&self) -> Option<&wgpu::Buffer> {
        self.tokens.as_ref()
    }

    /// Records the copies of chained rows' tokens to the list of all rows' tokens in the tables.
    pub(crate) fn copy_to(
        &self,
        recording: &mut Recording,
        chained: &[Chained],
        list_at: u32,
    ) -> Result<(), BackendError> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        for (from, to, count) in stretches(&self.choices, chained)? {
            let bytes = |words: u64| words * size_of::<u32>() as u64;
            let to = (Place::Tables, bytes(u64::from(list_at) + to));
            recording.copy((Place::Buffer(tokens.clone()), bytes(from)), to, bytes(count));
        }
        Ok(())
    }
}

/// `(place, row, count)` of rows in a row whose tokens are too: one for a batch that goes on as it was.
fn stretches(choices: &Choices, chained: &[Chained]) -> Result<Vec<(u64, u64, u64)>, BackendError> {
    let mut stretches: Vec<(u64, u64, u64)> = Vec::new();
    for &Chained { row, output } in chained {
        let (place, row) = (choices.place(output)? as u64, u64::from(row));
        match stretches.last_mut() {
            Some((from, to, count)) if (*from + *count, *to + *count) == (place, row) => *count += 1,
            _ => stretches.push((place, row, 1)),
        }
    }
    Ok(stretches)
}

#[cfg(test)]
mod tests {
    use interleaf_contract::{
        Batch, Op, Output, PageElement, PageTable, PoolGeometry, Row, RowKind, RowSet, Sampler, Sequence,
        Step,
    };

    use super::*;

    const POOL: PoolGeometry =
        PoolGeometry { layers: 1, kv_heads: 1, head_dim: 2, slots: 1, element: PageElement::F16 };

    /// What a step of four rows chooses, the second of which has no sampler.
    fn choices() -> Choices {
        let row = |sequence| Row { token: 0, position: 0, sequence, adapter: -1, kind: RowKind::Generated };
        let output = |row| Output { row, sampler: (row != 1).then(Sampler::greedy) };
        let batch = Batch {
            rows: (0..4).map(row).collect(),
            sequences: vec![Sequence { pages: PageTable::uniform(&POOL, [0]) }; 4],
            outputs: (0..4).map(output).collect(),
            ..Batch::default()
        };
        let mut step = Step::new(batch).unwrap();
        let logits = step.tensor(RowSet::Outputs, 8);
        step.push(Op::Sample { logits });
        Choices::of(&step)
    }

    #[test]
    fn rows_in_a_row_are_copied_at_once() {
        let chained = |pairs: &[(u32, u32)]| {
            let chained: Vec<Chained> = pairs.iter().map(|&(row, output)| Chained { row, output }).collect();
            stretches(&choices(), &chained)
        };
        assert_eq!(chained(&[(0, 0), (1, 2), (2, 3)]).unwrap(), [(0, 0, 3)]);
        assert_eq!(chained(&[(0, 2), (1, 3), (5, 0)]).unwrap(), [(1, 0, 2), (0, 5, 1)]);
        assert_eq!(chained(&[(0, 0), (2, 2)]).unwrap(), [(0, 0, 1), (1, 2, 1)]);
        assert!(chained(&[(0, 1)]).is_err() && chained(&[]).unwrap().is_empty());
    }
}
