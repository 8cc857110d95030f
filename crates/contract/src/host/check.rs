//! The checks of a step before it runs: handles, shapes, tokens, positions and pages. After them a
//! kernel needs no error path of its own.

use super::{Pool, Resident};
use crate::{
    Activation, AttentionShape, BackendError, ContractError, Op, PageHalf, RowSet, Sampler, Step, Tensor,
};

pub(super) fn step(step: &Step, resident: &Resident, pool: &Pool) -> Result<(), BackendError> {
    for adapter in &step.batch().adapters {
        resident.adapter(*adapter)?;
    }
    step.ops().iter().try_for_each(|op| Check { step, resident, pool, stem: op.stem() }.op(op))
}

struct Check<'a> {
    step: &'a Step,
    resident: &'a Resident,
    pool: &'a Pool,
    stem: &'static str,
}

impl Check<'_> {
    fn op(&self, op: &Op) -> Result<(), BackendError> {
        match op {
            Op::Load { out, data } => {
                self.tensor(*out)?;
                let expected = self.step.row_count(out.rows) * out.cols as usize;
                self.equal("values", expected, data.len())
            }
            Op::Embed { table, out, .. } => {
                let table = self.resident.matrix(*table)?;
                self.shape(*out, RowSet::All, table.cols())?;
                let rows = &self.step.batch().rows;
                rows.iter().try_for_each(|r| self.below("token", r.token as usize, table.rows()))
            }
            Op::RmsNorm { x, add, weight, heads, out, .. } => {
                self.tensor(*x)?;
                if let Some(add) = add {
                    self.shape(*add, x.rows, x.cols as usize)?;
                }
                self.positive("heads", *heads)?;
                let weight = self.resident.vector(*weight)?.len();
                self.equal("columns of x", weight * *heads as usize, x.cols as usize)?;
                let rows = if x.rows == RowSet::Outputs { RowSet::Outputs } else { out.rows };
                self.shape(*out, rows, x.cols as usize)
            }
            Op::LoraMatmul { x, projections } => {
                self.tensor(*x)?;
                for (projection, y) in projections {
                    let matrix = self.resident.projection_matrix(*projection)?;
                    self.equal("columns of x", matrix.cols(), x.cols as usize)?;
                    self.shape(*y, x.rows, matrix.rows())?;
                    if y.index == x.index {
                        return Err(self.value("result", "a tensor other than x", f64::from(y.index)));
                    }
                }
                Ok(())
            }
            Op::Rope { x, head_dim, table } => {
                self.tensor(*x)?;
                let table = self.resident.rope(*table)?;
                self.heads(*x, *head_dim)?;
                if table.rotary_dim > *head_dim as usize || !table.rotary_dim.is_multiple_of(2) {
                    let found = table.rotary_dim as f64;
                    return Err(self.value("rotated dimensions", "even, at most head_dim", found));
                }
                let mut rows = self.step.rows(x.rows);
                rows.try_for_each(|r| self.below("position", r.position as usize, table.positions))
            }
            Op::KvAppend { layer, k, v } => {
                let g = self.pool.geometry();
                for t in [k, v] {
                    self.shape(*t, RowSet::All, g.kv_heads * g.head_dim)?;
                }
                self.pages(*layer)
            }
            Op::PagedAttention { layer, shape, q, out } => {
                self.attention(*shape)?;
                let cols = (shape.heads * shape.head_dim) as usize;
                self.shape(*q, RowSet::All, cols)?;
                self.shape(*out, RowSet::All, cols)?;
                self.pages(*layer)
            }
            Op::SwiGlu { activation: Activation::Silu | Activation::GeluTanh, gate, up, out } => {
                self.tensor(*gate)?;
                self.shape(*up, gate.rows, gate.cols as usize)?;
                self.shape(*out, gate.rows, gate.cols as usize)
            }
            Op::Sample { logits } => {
                self.shape(*logits, RowSet::Outputs, logits.cols as usize)?;
                self.positive("vocabulary", logits.cols)?;
                let outputs = &self.step.batch().outputs;
                outputs
                    .iter()
                    .filter_map(|o| o.sampler.as_ref())
                    .try_for_each(|s| self.sampler(s, logits.cols))
            }
            Op::Probe { x } => self.tensor(*x),
        }
    }

    fn tensor(&self, t: Tensor) -> Result<(), BackendError> {
        self.below("tensor", t.index as usize, self.step.tensors().len())?;
        let declared = self.step.tensors()[t.index as usize];
        self.equal("columns of a tensor", declared.cols as usize, t.cols as usize)?;
        self.row_set(declared.rows, t.rows)
    }

    fn shape(&self, t: Tensor, rows: RowSet, cols: usize) -> Result<(), BackendError> {
        self.tensor(t)?;
        self.row_set(rows, t.rows)?;
        self.equal("columns", cols, t.cols as usize)
    }

    fn row_set(&self, expected: RowSet, found: RowSet) -> Result<(), BackendError> {
        if expected == found {
            return Ok(());
        }
        let expected = if expected == RowSet::All { "over all rows" } else { "over the output rows" };
        Err(self.value("a tensor", expected, self.step.row_count(found) as f64))
    }

    fn heads(&self, x: Tensor, head_dim: u32) -> Result<(), BackendError> {
        self.positive("head_dim", head_dim)?;
        self.equal("columns past whole heads", 0, (x.cols % head_dim) as usize)
    }

    fn attention(&self, shape: AttentionShape) -> Result<(), BackendError> {
        let g = self.pool.geometry();
        self.positive("kv_heads", shape.kv_heads)?;
        self.equal("kv_heads", g.kv_heads, shape.kv_heads as usize)?;
        self.equal("head_dim", g.head_dim, shape.head_dim as usize)?;
        self.equal("heads past whole groups", 0, (shape.heads % shape.kv_heads) as usize)
    }

    /// Every chunk up to each sequence's last row must be in the pool, in the pool's codec.
    fn pages(&self, layer: u32) -> Result<(), BackendError> {
        let batch = self.step.batch();
        for (sequence, first, rows) in batch.runs() {
            let last = batch.rows[first + rows - 1].position as usize;
            let table = &batch.sequences[sequence].pages;
            for chunk in 0..=last / crate::CHUNK_TOKENS {
                let Some(entry) = table.entry(layer as usize, chunk) else {
                    return Err(ContractError::OutOfRange {
                        what: "chunk",
                        index: chunk,
                        len: table.chunks(),
                    }
                    .into());
                };
                self.pool.check_entry(layer, PageHalf::K, entry.k)?;
                self.pool.check_entry(layer, PageHalf::V, entry.v)?;
            }
        }
        Ok(())
    }

    fn sampler(&self, s: &Sampler, vocabulary: u32) -> Result<(), BackendError> {
        let rules: [(&'static str, &'static str, f32, bool); 4] = [
            ("temperature", "finite and at least 0", s.temperature, s.temperature >= 0.0),
            ("top_p", "above 0 and at most 1", s.top_p, s.top_p > 0.0 && s.top_p <= 1.0),
            ("min_p", "from 0 to 1", s.min_p, (0.0..=1.0).contains(&s.min_p)),
            ("repeat_penalty", "finite and above 0", s.repeat_penalty, s.repeat_penalty > 0.0),
        ];
        for (what, expected, found, holds) in rules {
            if !holds || !found.is_finite() {
                return Err(self.value(what, expected, f64::from(found)));
            }
        }
        s.history
            .iter()
            .try_for_each(|&t| self.below("token of the history", t as usize, vocabulary as usize))
    }

    fn below(&self, what: &'static str, index: usize, len: usize) -> Result<(), BackendError> {
        if index < len { Ok(()) } else { Err(ContractError::OutOfRange { what, index, len }.into()) }
    }

    fn equal(&self, what: &'static str, expected: usize, found: usize) -> Result<(), BackendError> {
        if expected == found {
            return Ok(());
        }
        Err(ContractError::Shape { op: self.stem, what, expected, found }.into())
    }

    fn positive(&self, what: &'static str, found: u32) -> Result<(), BackendError> {
        if found > 0 { Ok(()) } else { Err(self.value(what, "above 0", 0.0)) }
    }

    fn value(&self, what: &'static str, expected: &'static str, found: f64) -> BackendError {
        ContractError::Value { op: self.stem, what, expected, found }.into()
    }
}
