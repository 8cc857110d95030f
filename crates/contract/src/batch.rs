//! What one step computes: rows of any sequences under any adapters, prompt and generated together.

use crate::{AdapterId, CHUNK_TOKENS, Chained, ContractError, PageTable, Sampler, chain};

/// Whether a row reads a prompt or continues an answer. Where a backend has different kernels for the
/// two, it chooses by this and never by how many rows happen to be in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// A token of a prompt (prefill).
    Prompt,
    /// A token that was generated (decode).
    Generated,
}

/// One token of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The token; that of a row in [`Batch::chained`] is not read.
    pub token: u32,
    /// Its position in the sequence. Positions are data: rows may come in any order.
    pub position: u32,
    /// Index into [`Batch::sequences`].
    pub sequence: u32,
    /// Index into [`Batch::adapters`], or −1 for the base model.
    pub adapter: i32,
    /// Prompt or generated.
    pub kind: RowKind,
}

/// A sequence that has rows in the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Its pages, those included that this step's rows are appended to.
    pub pages: PageTable,
}

/// A row whose logits are wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Index into [`Batch::rows`].
    pub row: u32,
    /// How to choose a token from the logits; `None` where only a probe reads them.
    pub sampler: Option<Sampler>,
}

/// The rows of one step and what they refer to.
///
/// Rows of one sequence stand together, in ascending position. No two sequences may append to the same page:
/// where they do, which row's K and V the page keeps is not defined.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// The tokens.
    pub rows: Vec<Row>,
    /// The sequences they belong to.
    pub sequences: Vec<Sequence>,
    /// The adapters in use. A row with scale 0 everywhere is a base row and names none.
    pub adapters: Vec<AdapterId>,
    /// The rows whose logits are wanted, ascending.
    pub outputs: Vec<Output>,
    /// The rows whose token the step submitted just before chose, ascending. Where it found no logit to be a number
    /// there is none: what such a row computes is not defined, and the other rows are as ever.
    pub chained: Vec<Chained>,
}

impl Batch {
    /// Checks every index, the order of rows, and that page tables reach each row's position.
    ///
    /// # Errors
    /// Names the first index that is out of range or the first rule that is broken.
    pub fn check(&self) -> Result<(), ContractError> {
        let in_range = |what, index: usize, len: usize| {
            if index < len { Ok(()) } else { Err(ContractError::OutOfRange { what, index, len }) }
        };
        let ordered = |what, found: u32| ContractError::Value {
            op: "batch",
            what,
            expected: "ascending",
            found: f64::from(found),
        };
        for row in &self.rows {
            in_range("sequence", row.sequence as usize, self.sequences.len())?;
            if row.adapter >= 0 {
                in_range("adapter", row.adapter.unsigned_abs() as usize, self.adapters.len())?;
            }
            let chunks = self.sequences[row.sequence as usize].pages.chunks();
            in_range("chunk of a row's position", row.position as usize / CHUNK_TOKENS, chunks)?;
        }
        for pair in self.rows.windows(2) {
            if pair[1].sequence < pair[0].sequence {
                return Err(ordered("sequence of a row", pair[1].sequence));
            }
            if pair[1].sequence == pair[0].sequence && pair[1].position <= pair[0].position {
                return Err(ordered("position of a row", pair[1].position));
            }
        }
        for output in &self.outputs {
            in_range("output row", output.row as usize, self.rows.len())?;
        }
        for pair in self.outputs.windows(2) {
            if pair[1].row <= pair[0].row {
                return Err(ordered("output row", pair[1].row));
            }
        }
        chain::check(&self.chained, &self.rows)
    }

    /// The tokens of the rows that are not chained.
    pub fn given_tokens(&self) -> impl Iterator<Item = u32> + '_ {
        let is_chained = |row: u32| self.chained.binary_search_by_key(&row, |chained| chained.row).is_ok();
        self.rows.iter().zip(0_u32..).filter(move |(_, i)| !is_chained(*i)).map(|(row, _)| row.token)
    }

    /// The runs of consecutive rows of one sequence, as `(sequence, first row, rows)`.
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let mut first = 0;
        self.rows.chunk_by(|a, b| a.sequence == b.sequence).map(move |run| {
            let start = first;
            first += run.len();
            (run[0].sequence as usize, start, run.len())
        })
    }
}
