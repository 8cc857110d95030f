//! The checks that every backend makes before it does anything: of a step, and of what is made resident.
//! After them a kernel needs no error path of its own, and all backends refuse the same things alike. Those of
//! pages are in `pages`.

mod pages;

use std::collections::HashSet;

use self::pages::StepPages;
pub use self::pages::{compared, constants, copies, page, page_data, pool, recodes};
use crate::{
    Adapter, AdapterId, AttentionShape, BackendError, Choices, ConstantsId, ContractError, MatrixId, Op,
    PageCodec, PageConstants, PoolGeometry, Projection, ProjectionId, RopeId, RopeTable, RowSet, Sampler,
    Step, Tensor, VectorId,
};

/// The shape of [`PageConstants`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConstantsShape {
    /// Rows.
    pub rows: usize,
    /// KV heads of a row.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// The embedding that expanded keys are turned by.
    pub rope: Option<RopeId>,
}

impl ConstantsShape {
    /// That of some constants.
    #[must_use]
    pub const fn of(constants: &PageConstants) -> Self {
        let PageConstants { rows, rope, .. } = constants;
        Self { rows: rows.rows(), kv_heads: rows.kv_heads(), head_dim: rows.head_dim(), rope: *rope }
    }
}

/// What a backend holds, as far as checks need to know it.
pub trait Inventory {
    /// Rows and columns of a matrix.
    ///
    /// # Errors
    /// If the handle is unknown.
    fn matrix_shape(&self, id: MatrixId) -> Result<(usize, usize), BackendError>;

    /// Values of a vector.
    ///
    /// # Errors
    /// If the handle is unknown.
    fn vector_len(&self, id: VectorId) -> Result<usize, BackendError>;

    /// Outputs and inputs of a projection.
    ///
    /// # Errors
    /// If the handle is unknown.
    fn projection_shape(&self, id: ProjectionId) -> Result<(usize, usize), BackendError>;

    /// A resident adapter that attaches to a projection.
    fn adapted(&self, id: ProjectionId) -> Option<AdapterId>;

    /// Rotated dimensions and positions of a rope table.
    ///
    /// # Errors
    /// If the handle is unknown.
    fn rope_shape(&self, id: RopeId) -> Result<(usize, usize), BackendError>;

    /// Whether an adapter is resident.
    ///
    /// # Errors
    /// If the handle is unknown.
    fn has_adapter(&self, id: AdapterId) -> Result<(), BackendError>;

    /// The page pool; without one, a pool of no layers.
    fn pool(&self) -> PoolGeometry;

    /// Whether its kernels read pages in a codec; numbers are of the pool's element.
    fn reads(&self, codec: PageCodec) -> bool;

    /// The shape of constants of pages.
    ///
    /// # Errors
    /// If the handle is unknown.
    fn constants_shape(&self, id: ConstantsId) -> Result<ConstantsShape, BackendError>;

    /// The backend's name, for messages.
    fn name(&self) -> &'static str;

    /// What the step submitted last chooses; nothing before the first.
    fn choices(&self) -> &Choices;
}

/// Checks a bias against its matrix.
///
/// # Errors
/// If a handle is unknown or the bias does not have one value per output.
pub fn projection(projection: &Projection, held: &impl Inventory) -> Result<(), BackendError> {
    let (outputs, _) = held.matrix_shape(projection.matrix)?;
    match projection.bias {
        Some(bias) => equal("lora_matmul", "length of the bias", outputs, held.vector_len(bias)?),
        None => Ok(()),
    }
}

/// Checks projections that are to be dropped.
///
/// # Errors
/// If a handle is unknown, or a resident adapter attaches to it.
pub fn dropped(projections: &[ProjectionId], held: &impl Inventory) -> Result<(), BackendError> {
    projections.iter().try_for_each(|&id| {
        held.projection_shape(id)?;
        match held.adapted(id) {
            Some(AdapterId(adapter)) => Err(ContractError::Adapted { projection: id.0, adapter }.into()),
            None => Ok(()),
        }
    })
}

/// Checks a rope table against its own dimensions.
///
/// # Errors
/// If the rotated dimensions are odd, or a plane is not `positions × rotary_dim/2`.
pub fn rope(table: &RopeTable) -> Result<(), BackendError> {
    if !table.rotary_dim.is_multiple_of(2) {
        return Err(value("rope", "rotated dimensions", "even", table.rotary_dim as f64));
    }
    let expected = table.positions.saturating_mul(table.rotary_dim / 2);
    equal("rope", "length of the cosines", expected, table.cos.len())?;
    equal("rope", "length of the sines", expected, table.sin.len())
}

/// Checks an adapter's sites against their projections ([`crate::LoraSite::check`]).
///
/// # Errors
/// If a handle is unknown, factors do not fit, a scale is not finite, or a projection has two sites.
pub fn adapter(adapter: &Adapter, held: &impl Inventory) -> Result<(), BackendError> {
    let mut seen = HashSet::new();
    for site in &adapter.sites {
        let (outputs, inputs) = held.projection_shape(site.projection)?;
        site.check(outputs, inputs)?;
        if !seen.insert(site.projection) {
            let name = format!("{}: {}", adapter.name, site.a.name());
            let what = "number of sites on one projection";
            return Err(ContractError::LoraShape { name, what, expected: 1, found: 2 }.into());
        }
    }
    Ok(())
}

/// Checks a step: every handle names something, every shape fits, no result is also an input where the
/// operation does not say that it may be, tokens and positions are in range, and every page that is read or
/// written is in the pool, in a codec for that.
///
/// # Errors
/// Names the first operation, what of it is wrong, and what was expected.
pub fn step(step: &Step, held: &impl Inventory) -> Result<(), BackendError> {
    for adapter in &step.batch().adapters {
        held.has_adapter(*adapter)?;
    }
    step.batch().chained.iter().try_for_each(|chained| held.choices().place(chained.output).map(|_| ()))?;
    for t in step.tensors() {
        let values = step.row_count(t.rows).checked_mul(t.cols as usize);
        if values.is_none_or(|n| n > isize::MAX as usize / size_of::<f32>()) {
            return Err(value("step", "values of a tensor", "addressable", f64::from(t.cols)));
        }
    }
    if let Some(sample) = step.mass() {
        positive("attention_mass", "heads of which one is measured", sample.every as usize)?;
        if let Some(pair) = sample.layers.windows(2).find(|pair| pair[1] <= pair[0]) {
            return Err(value("attention_mass", "layers", "ascending", f64::from(pair[1])));
        }
    }
    let mut pages = StepPages::new(step, held);
    step.ops().iter().try_for_each(|op| {
        Check { step, held, pool: held.pool(), stem: op.stem() }.op(op)?;
        match op {
            Op::KvAppend { layer, .. } | Op::KvRead { layer, .. } | Op::PagedAttention { layer, .. } => {
                pages.layer(*layer)
            }
            _ => Ok(()),
        }
    })
}

struct Check<'a, I> {
    step: &'a Step,
    held: &'a I,
    pool: PoolGeometry,
    stem: &'static str,
}

impl<I: Inventory> Check<'_, I> {
    fn op(&self, op: &Op) -> Result<(), BackendError> {
        match op {
            Op::Load { out, data } => {
                self.tensor(*out)?;
                self.equal("values", self.step.row_count(out.rows) * out.cols as usize, data.len())
            }
            Op::Embed { table, out, .. } => {
                let (tokens, hidden) = self.held.matrix_shape(*table)?;
                positive(self.stem, "columns", hidden)?;
                self.shape(*out, RowSet::All, hidden)?;
                let batch = self.step.batch();
                if !batch.chained.is_empty() {
                    let last = self.held.choices().vocabulary().saturating_sub(1);
                    below("a chosen token", last as usize, tokens)?;
                }
                batch.given_tokens().try_for_each(|token| below("token", token as usize, tokens))
            }
            Op::RmsNorm { x, add, weight, heads, out, .. } => {
                self.tensor(*x)?;
                if let Some(add) = add {
                    self.shape(*add, x.rows, x.cols as usize)?;
                    self.distinct("the residual", *add, &[*x, *out])?;
                }
                let weight = self.held.vector_len(*weight)?;
                positive(self.stem, "weights", weight)?;
                positive(self.stem, "heads", *heads as usize)?;
                let expected = weight.saturating_mul(*heads as usize);
                self.equal("columns of x", expected, x.cols as usize)?;
                let rows = if x.rows == RowSet::Outputs { RowSet::Outputs } else { out.rows };
                self.shape(*out, rows, x.cols as usize)
            }
            Op::LoraMatmul { x, projections } => {
                self.tensor(*x)?;
                for (i, (projection, y)) in projections.iter().enumerate() {
                    let (outputs, inputs) = self.held.projection_shape(*projection)?;
                    self.equal("columns of x", inputs, x.cols as usize)?;
                    self.shape(*y, x.rows, outputs)?;
                    self.distinct("a result", *y, &[*x])?;
                    projections[..i]
                        .iter()
                        .try_for_each(|(_, other)| self.distinct("a result", *y, &[*other]))?;
                }
                Ok(())
            }
            Op::Rope { x, head_dim, table } => {
                self.tensor(*x)?;
                positive(self.stem, "head_dim", *head_dim as usize)?;
                self.equal("columns past whole heads", 0, (x.cols % head_dim) as usize)?;
                self.turns(x.rows, *head_dim as usize, *table)
            }
            Op::KvAppend { k, v, .. } => {
                for t in [k, v] {
                    self.shape(*t, RowSet::All, self.pool.kv_heads * self.pool.head_dim)?;
                }
                Ok(())
            }
            Op::KvRead { rope, out, at, .. } => {
                self.shape(*out, RowSet::All, out.cols as usize)?;
                let width = self.pool.kv_heads * self.pool.head_dim;
                positive(self.stem, "columns of a key", width)?;
                self.columns(2 * width, *at, *out)?;
                rope.map_or(Ok(()), |table| self.turns(out.rows, self.pool.head_dim, table))
            }
            Op::Arrive { layer, pages } => pages.0.places(*layer).into_iter().try_for_each(|place| {
                self.equal("layer of a page that comes", *layer as usize, place.layer as usize)?;
                page(place, &self.pool)
            }),
            Op::Add { x, from, at } => {
                self.tensor(*x)?;
                positive(self.stem, "columns", x.cols as usize)?;
                self.shape(*from, x.rows, from.cols as usize)?;
                self.distinct("what is added", *from, &[*x])?;
                self.columns(x.cols as usize, *at, *from)
            }
            Op::PagedAttention { shape, q, out, .. } => {
                self.attention(*shape)?;
                let cols = shape.heads as usize * shape.head_dim as usize;
                self.shape(*q, RowSet::All, cols)?;
                self.shape(*out, RowSet::All, cols)?;
                self.distinct("the result", *out, &[*q])
            }
            Op::SwiGlu { gate, up, out, .. } => {
                self.tensor(*gate)?;
                self.shape(*up, gate.rows, gate.cols as usize)?;
                self.shape(*out, gate.rows, gate.cols as usize)?;
                self.distinct("up", *up, &[*gate, *out])
            }
            Op::Softcap { x, cap } => {
                self.cap(Some(*cap))?;
                self.tensor(*x)
            }
            Op::Sample { logits } => {
                self.shape(*logits, RowSet::Outputs, logits.cols as usize)?;
                positive(self.stem, "vocabulary", logits.cols as usize)?;
                let samplers = self.step.batch().outputs.iter().filter_map(|o| o.sampler.as_ref());
                samplers.into_iter().try_for_each(|s| self.sampler(s, logits.cols))
            }
            Op::Probe { x } => self.tensor(*x),
        }
    }

    fn tensor(&self, t: Tensor) -> Result<(), BackendError> {
        below("tensor", t.index as usize, self.step.tensors().len())?;
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
        Err(value(self.stem, "a tensor", expected, self.step.row_count(found) as f64))
    }

    /// Whether a tensor has some columns from one on.
    fn columns(&self, columns: usize, at: u32, of: Tensor) -> Result<(), BackendError> {
        below("columns from the first one on", columns + at as usize, of.cols as usize + 1)
    }

    /// Whether a table has factors for all rows and for no more than a head.
    fn turns(&self, rows: RowSet, head_dim: usize, table: RopeId) -> Result<(), BackendError> {
        let (rotary_dim, positions) = self.held.rope_shape(table)?;
        if rotary_dim > head_dim {
            return Err(value(self.stem, "rotated dimensions", "at most head_dim", rotary_dim as f64));
        }
        self.step.rows(rows).try_for_each(|r| below("position", r.position as usize, positions))
    }

    fn distinct(&self, what: &'static str, t: Tensor, others: &[Tensor]) -> Result<(), BackendError> {
        if others.iter().all(|other| other.index != t.index) {
            return Ok(());
        }
        Err(value(self.stem, what, "a tensor of its own", f64::from(t.index)))
    }

    fn attention(&self, shape: AttentionShape) -> Result<(), BackendError> {
        positive(self.stem, "kv_heads", shape.kv_heads as usize)?;
        positive(self.stem, "heads", shape.heads as usize)?;
        self.equal("kv_heads", self.pool.kv_heads, shape.kv_heads as usize)?;
        self.equal("head_dim", self.pool.head_dim, shape.head_dim as usize)?;
        self.equal("heads past whole groups", 0, (shape.heads % shape.kv_heads) as usize)?;
        positive(self.stem, "window", shape.window.map_or(1, |w| w as usize))?;
        self.cap(shape.softcap)
    }

    fn cap(&self, cap: Option<f32>) -> Result<(), BackendError> {
        match cap {
            Some(cap) if !cap.is_finite() || cap <= 0.0 => {
                Err(value(self.stem, "cap", "finite and above 0", f64::from(cap)))
            }
            _ => Ok(()),
        }
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
                return Err(value(self.stem, what, expected, f64::from(found)));
            }
        }
        for &(token, bias) in &s.bias {
            below("token of a bias", token as usize, vocabulary as usize)?;
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(value(self.stem, "bias", "finite or −∞", f64::from(bias)));
            }
        }
        s.history.iter().try_for_each(|&t| below("token of the history", t as usize, vocabulary as usize))
    }

    fn equal(&self, what: &'static str, expected: usize, found: usize) -> Result<(), BackendError> {
        equal(self.stem, what, expected, found)
    }
}

fn below(what: &'static str, index: usize, len: usize) -> Result<(), BackendError> {
    if index < len { Ok(()) } else { Err(ContractError::OutOfRange { what, index, len }.into()) }
}

fn equal(op: &'static str, what: &'static str, expected: usize, found: usize) -> Result<(), BackendError> {
    if expected == found { Ok(()) } else { Err(ContractError::Shape { op, what, expected, found }.into()) }
}

fn positive(op: &'static str, what: &'static str, found: usize) -> Result<(), BackendError> {
    if found > 0 { Ok(()) } else { Err(value(op, what, "above 0", 0.0)) }
}

fn value(op: &'static str, what: &'static str, expected: &'static str, found: f64) -> BackendError {
    ContractError::Value { op, what, expected, found }.into()
}
