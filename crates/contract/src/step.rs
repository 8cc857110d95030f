//! A step: the transformer's operations over one batch, recorded as data and submitted whole.
//!
//! The forward pass records; a backend sees the complete list before it starts, so it may fuse
//! neighbours, plan its memory and run it as one parallel region or one command buffer. Operations run
//! as if one after another, in the order they were recorded.

use std::sync::Arc;

use crate::{Arrival, Batch, CHUNK_TOKENS, ContractError, MatrixId, ProjectionId, RopeId, VectorId};

/// Which rows a tensor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowSet {
    /// One for each of [`Batch::rows`].
    All,
    /// One for each of [`Batch::outputs`].
    Outputs,
}

/// An activation, `rows × cols` f32, alive for one step. Opaque: only a backend knows where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tensor {
    /// Its number in the step, from 0.
    pub index: u32,
    /// Its rows.
    pub rows: RowSet,
    /// Its columns.
    pub cols: u32,
}

/// The gate's activation in [`Op::SwiGlu`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x·sigmoid(x)`.
    Silu,
    /// GELU in its tanh form: `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`.
    GeluTanh,
}

/// The head layout of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; query head `h` reads key/value head `h / (heads / kv_heads)`.
    pub kv_heads: u32,
    /// Elements of one head.
    pub head_dim: u32,
    /// Scores are multiplied by it, usually `1/√head_dim`.
    pub scale: f32,
    /// If given, scaled scores become `cap · tanh(score / cap)` before the softmax (Gemma 2).
    pub softcap: Option<f32>,
    /// If given, a row sees itself and the `window − 1` positions before it, and no earlier ones.
    pub window: Option<u32>,
}

impl AttentionShape {
    /// The first position that a row sees.
    #[must_use]
    pub const fn first_visible(&self, position: u32) -> u32 {
        match self.window {
            Some(window) => (position + 1).saturating_sub(window),
            None => 0,
        }
    }
}

/// Names what [`Op::Probe`] read back: an index into [`StepOutput::probes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProbeId(pub u32);

/// One operation. Each is a kernel stem of `kernels-ref`, where it is defined.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Op {
    /// Writes host values into a tensor, `rows × cols`.
    Load {
        /// Where to.
        out: Tensor,
        /// The values, row-major.
        data: Arc<[f32]>,
    },
    /// `out[i] = scale · table[token(i)]`.
    Embed {
        /// The embedding, `vocabulary × hidden`.
        table: MatrixId,
        /// 1, or √hidden where a family asks for it.
        scale: f32,
        /// `All × hidden`.
        out: Tensor,
    },
    /// With `add`: `x += add`, in place. Then per row, in `heads` equal groups:
    /// `out = x / √(mean(x²) + epsilon) · weight`. If `x` has all rows and `out` the outputs', only
    /// those rows are computed and packed.
    RmsNorm {
        /// The residual stream, or queries or keys.
        x: Tensor,
        /// A residual to add first; neither `x` nor `out`.
        add: Option<Tensor>,
        /// One value per column of a group.
        weight: VectorId,
        /// Under the root.
        epsilon: f32,
        /// Groups that are normed apart: 1, or the heads for a head norm.
        heads: u32,
        /// May be `x` itself.
        out: Tensor,
    },
    /// For every projection: `y[i] = x[i]·Wᵀ (+ bias) + s·(x[i]·Aᵀ)·Bᵀ` with the adapter of row i.
    /// Projections that read the same `x` stand together so that they share one shrink.
    LoraMatmul {
        /// The input.
        x: Tensor,
        /// Projections and their results: tensors that differ from `x` and from each other.
        projections: Vec<(ProjectionId, Tensor)>,
    },
    /// Rotates each head by its row's position, in place.
    Rope {
        /// Queries or keys, `heads · head_dim` columns.
        x: Tensor,
        /// Elements of one head.
        head_dim: u32,
        /// Factors by position.
        table: RopeId,
    },
    /// Writes K and V rows into their sequence's pages of this layer.
    KvAppend {
        /// The layer.
        layer: u32,
        /// Keys as attention reads them.
        k: Tensor,
        /// Values.
        v: Tensor,
    },
    /// Reads back what [`Op::KvAppend`] wrote: the K and V of each row's own position in its sequence's pages of this
    /// layer, which are exact there, side by side into columns of a wider tensor.
    KvRead {
        /// The layer.
        layer: u32,
        /// Keys are turned back by it, as before it turned them; `None` leaves them as attention reads them.
        rope: Option<RopeId>,
        /// Where to, `All` rows.
        out: Tensor,
        /// The first column: of keys, with values behind them, `kv_heads · head_dim` each.
        at: u32,
    },
    /// `x += from[.., at .. at + columns of x]`, element by element, in place.
    Add {
        /// What grows.
        x: Tensor,
        /// At least as wide behind `at`, with the same rows; not `x` itself.
        from: Tensor,
        /// The first column.
        at: u32,
    },
    /// Waits for pages of a layer that come from elsewhere, and puts them in their places, which nothing else in the step
    /// writes.
    Arrive {
        /// The layer.
        layer: u32,
        /// The pages.
        pages: Arrival,
    },
    /// Causal grouped-query attention over the pages of each row's sequence: positions `0 ..=` its own, or
    /// the last of them where the shape has a window.
    PagedAttention {
        /// The layer.
        layer: u32,
        /// The head layout.
        shape: AttentionShape,
        /// Queries, `heads · head_dim` columns.
        q: Tensor,
        /// Results, as wide; not `q` itself.
        out: Tensor,
    },
    /// `out = activation(gate) · up`, element by element.
    SwiGlu {
        /// On the gate.
        activation: Activation,
        /// The gate.
        gate: Tensor,
        /// What is gated; neither `gate` nor `out`.
        up: Tensor,
        /// May be `gate` itself.
        out: Tensor,
    },
    /// `x = cap · tanh(x / cap)`, element by element, in place (the logits of Gemma 2).
    Softcap {
        /// What is capped.
        x: Tensor,
        /// The largest magnitude.
        cap: f32,
    },
    /// Chooses a token for every output that has a sampler.
    Sample {
        /// `Outputs × vocabulary`.
        logits: Tensor,
    },
    /// Reads a tensor back.
    Probe {
        /// What is read.
        x: Tensor,
    },
}

impl Op {
    /// The kernel's stem, as in `kernels-ref/src/<stem>.rs`.
    #[must_use]
    pub const fn stem(&self) -> &'static str {
        match self {
            Self::Load { .. } => "load",
            Self::Embed { .. } => "embed",
            Self::RmsNorm { .. } => "rms_norm",
            Self::LoraMatmul { .. } => "lora_matmul",
            Self::Rope { .. } => "rope",
            Self::KvAppend { .. } => "kv_append",
            Self::KvRead { .. } => "kv_read",
            Self::Arrive { .. } => "arrive",
            Self::Add { .. } => "add",
            Self::PagedAttention { .. } => "paged_attention",
            Self::SwiGlu { .. } => "swiglu",
            Self::Softcap { .. } => "softcap",
            Self::Sample { .. } => "sample",
            Self::Probe { .. } => "probe",
        }
    }
}

/// Whose attention a step sums up by chunk ([`StepOutput::mass`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MassSample {
    /// Layers, ascending, each of which the step has once.
    pub layers: Arc<[u32]>,
    /// One key/value head of so many, from the first on, with all query heads that read it; at least 1.
    pub every: u32,
}

impl MassSample {
    /// Whether a layer is measured.
    #[must_use]
    pub fn has_layer(&self, layer: u32) -> bool {
        self.layers.binary_search(&layer).is_ok()
    }

    /// Whether the queries of a key/value head are.
    #[must_use]
    pub const fn has_head(&self, kv_head: u32) -> bool {
        kv_head.is_multiple_of(self.every)
    }

    /// How many query heads of a layer are.
    #[must_use]
    pub const fn heads(&self, shape: &AttentionShape) -> u32 {
        shape.kv_heads.div_ceil(self.every) * (shape.heads / shape.kv_heads)
    }
}

/// A recorded step.
#[derive(Debug, Clone)]
pub struct Step {
    batch: Batch,
    tensors: Vec<Tensor>,
    ops: Vec<Op>,
    probes: u32,
    mass: Option<MassSample>,
}

impl Step {
    /// An empty step over a batch.
    ///
    /// # Errors
    /// If the batch contradicts itself ([`Batch::check`]).
    pub fn new(batch: Batch) -> Result<Self, ContractError> {
        batch.check()?;
        Ok(Self { batch, tensors: Vec::new(), ops: Vec::new(), probes: 0, mass: None })
    }

    /// Sums up attention by chunk, of these layers and heads.
    pub fn measure_mass(&mut self, sample: MassSample) {
        self.mass = Some(sample);
    }

    /// Whose attention is summed up.
    #[must_use]
    pub const fn mass(&self) -> Option<&MassSample> {
        self.mass.as_ref()
    }

    /// By sequence of the batch, how many chunks [`StepOutput::mass`] has; `None` where the step measures nothing.
    #[must_use]
    pub fn mass_chunks(&self) -> Option<Vec<usize>> {
        let sample = self.mass()?;
        let is_measured =
            |op: &Op| matches!(op, Op::PagedAttention { layer, .. } if sample.has_layer(*layer));
        if !self.ops.iter().any(is_measured) {
            return None;
        }
        let mut chunks = vec![0; self.batch.sequences.len()];
        for (sequence, first, count) in self.batch.runs() {
            // Positions ascend within a sequence.
            chunks[sequence] = self.batch.rows[first + count - 1].position as usize / CHUNK_TOKENS + 1;
        }
        Some(chunks)
    }

    /// Declares an activation. Its contents are undefined until an operation writes it.
    pub fn tensor(&mut self, rows: RowSet, cols: u32) -> Tensor {
        let tensor = Tensor { index: u32::try_from(self.tensors.len()).unwrap_or(u32::MAX), rows, cols };
        self.tensors.push(tensor);
        tensor
    }

    /// Records an operation.
    pub fn push(&mut self, op: Op) {
        self.probes += u32::from(matches!(op, Op::Probe { .. }));
        self.ops.push(op);
    }

    /// Records a read-back of `x` as it is at this point of the step.
    pub fn probe(&mut self, x: Tensor) -> ProbeId {
        let id = ProbeId(self.probes);
        self.push(Op::Probe { x });
        id
    }

    /// What the step is over.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Gives every chained row the token that the step before chose for its output: backends that have it at hand
    /// then meet no chained row.
    pub(crate) fn resolve(
        &mut self,
        token: impl Fn(u32) -> Result<u32, ContractError>,
    ) -> Result<(), ContractError> {
        for chained in std::mem::take(&mut self.batch.chained) {
            self.batch.rows[chained.row as usize].token = token(chained.output)?;
        }
        Ok(())
    }

    /// Every declared activation, by index.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// What is done, in order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// How many rows a row set has in this step.
    #[must_use]
    pub fn row_count(&self, rows: RowSet) -> usize {
        match rows {
            RowSet::All => self.batch.rows.len(),
            RowSet::Outputs => self.batch.outputs.len(),
        }
    }

    /// The batch row behind each row of a row set.
    pub fn rows(&self, rows: RowSet) -> impl ExactSizeIterator<Item = &crate::Row> + '_ {
        let count = self.row_count(rows);
        (0..count).map(move |i| match rows {
            RowSet::All => &self.batch.rows[i],
            RowSet::Outputs => &self.batch.rows[self.batch.outputs[i].row as usize],
        })
    }
}

/// A token that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampled {
    /// Index into [`Batch::outputs`].
    pub output: u32,
    /// The token; `None` where no logit is a number.
    pub token: Option<u32>,
}

/// What comes back from a step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepOutput {
    /// The chosen tokens, by output.
    pub tokens: Vec<Sampled>,
    /// What was probed, row-major, by [`ProbeId`].
    pub probes: Vec<Vec<f32>>,
    /// By sequence of the batch and by chunk, up to the last one that a row of the step sees: the sum over the sequence's rows of
    /// the weight that they give the chunk's tokens, as the mean over all measured query heads of all measured layers. Every
    /// row gives a weight of one in all. Nothing where the step measures nothing, and of a sequence without rows.
    pub mass: Vec<Vec<f32>>,
}
