//! A step as the workers walk it: every handle resolved, every buffer in place, one operation after another.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition: the machine has the tier")]

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use interleaf_contract::host::{HostSite, Pool, Resident};
use interleaf_contract::{
    Activation, Arrival, AttentionShape, BackendError, Bands, Batch, MatrixId, Numerics, Op, ProjectionId,
    RopeTable, RowSet, Sampled, Step, StepOutput, Tensor,
};

use crate::activations::{Activations, Buffer};
use crate::attention_mass::Totals;
use crate::isa::Isa;
use crate::lora_matmul::{LoraMatmul, Projection, Scratch};
use crate::packed::{Packed, Panels};
use crate::paged_attention::{self, PagedAttention};
use crate::region::{Shared, Worker};
use crate::{add, embed, kv_append, kv_read, rms_norm, rope, sample, softcap, swiglu};

/// What is kept from step to step.
#[derive(Debug, Default)]
pub struct Buffers {
    activations: Activations,
    packed: Buffer<f32>,
    codes: Buffer<i8>,
    scales: Buffer<f32>,
    sums: Buffer<i32>,
    z: Buffer<f32>,
    partials: Buffer<f32>,
    masses: Buffer<f32>,
}

impl Buffers {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        let floats = [&self.packed, &self.scales, &self.z, &self.partials, &self.masses];
        floats.into_iter().map(Buffer::bytes).sum::<u64>()
            + self.activations.bytes()
            + self.codes.bytes()
            + self.sums.bytes()
    }
}

/// One operation with what it works on.
enum Work<'a> {
    Load {
        out: Shared<'a, f32>,
        data: &'a [f32],
    },
    Embed {
        table: &'a Panels,
        scale: f32,
        out: Shared<'a, f32>,
    },
    Norm(Norm<'a>),
    Matmul(LoraMatmul<'a>),
    Rope {
        x: Shared<'a, f32>,
        cols: usize,
        rows: RowSet,
        head_dim: usize,
        table: &'a RopeTable,
    },
    KvAppend {
        layer: u32,
        k: Shared<'a, f32>,
        v: Shared<'a, f32>,
    },
    KvRead {
        layer: u32,
        table: Option<&'a RopeTable>,
        out: Columns<'a>,
    },
    Arrive {
        layer: u32,
        pages: &'a Arrival,
    },
    Add {
        x: Shared<'a, f32>,
        rows: usize,
        from: Columns<'a>,
    },
    Attention(PagedAttention<'a>),
    SwiGlu {
        activation: Activation,
        gate: Shared<'a, f32>,
        up: Shared<'a, f32>,
        out: Shared<'a, f32>,
        n: usize,
    },
    Softcap {
        x: Shared<'a, f32>,
        n: usize,
        cap: f32,
    },
    Sample {
        logits: Shared<'a, f32>,
        cols: usize,
    },
    Probe {
        x: Shared<'a, f32>,
    },
}

impl<'a> Work<'a> {
    fn as_matmul(&self) -> Option<&LoraMatmul<'a>> {
        match self {
            Self::Matmul(layer) => Some(layer),
            _ => None,
        }
    }
}

/// Columns of a tensor that is wider.
struct Columns<'a> {
    of: Shared<'a, f32>,
    cols: usize,
    at: usize,
    width: usize,
}

impl Columns<'_> {
    /// Those of a row, as a range of all values.
    fn row(&self, row: usize) -> Range<usize> {
        let first = row * self.cols + self.at;
        first..first + self.width
    }
}

struct Norm<'a> {
    x: Shared<'a, f32>,
    cols: usize,
    rows: usize,
    add: Option<Shared<'a, f32>>,
    weight: &'a [f32],
    epsilon: f32,
    out: Shared<'a, f32>,
    /// Only the outputs' rows are normed, and packed.
    outputs: bool,
}

/// A step ready to be walked.
pub struct Plan<'a> {
    step: &'a Step,
    work: Vec<Work<'a>>,
    /// Written by `kv_append` alone, which no attention overlaps.
    pool: RwLock<&'a mut Pool>,
    output: Mutex<StepOutput>,
    totals: Mutex<Totals>,
    /// When the first worker had begun and had ended each operation; `None` where nobody wants to know.
    ends: Option<Mutex<Vec<Instant>>>,
}

impl<'a> Plan<'a> {
    /// Resolves a step.
    ///
    /// # Errors
    /// If an operation is not known here, or there is no room for activations.
    pub fn new(
        step: &'a Step,
        resident: &'a Resident<Packed>,
        numerics: Numerics,
        pool: &'a mut Pool,
        buffers: &'a mut Buffers,
    ) -> Result<Self, BackendError> {
        let mut plans = AttentionPlans::new(step.batch());
        let groups = Groups::new(step);
        let mut sites = Vec::new();
        let sizes = sizes(step, resident, &groups, &mut plans, &mut sites)?;
        let mut sites = sites.into_iter();
        let tensors = buffers.activations.fit(step)?;
        let tensor = |t: &Tensor| tensors[t.index as usize];
        let columns = |t: &Tensor, at: u32, width| Columns {
            of: tensor(t),
            cols: t.cols as usize,
            at: at as usize,
            width,
        };
        let scratch = Scratch {
            packed: buffers.packed.fit(sizes.values)?,
            codes: buffers.codes.fit(sizes.values)?,
            scales: buffers.scales.fit(sizes.values / 32)?,
            sums: buffers.sums.fit(sizes.values / 32)?,
            z: buffers.z.fit(sizes.z)?,
        };
        let partials = buffers.partials.fit(sizes.partials)?;
        let masses = buffers.masses.fit(sizes.masses)?;
        let batch = step.batch();
        let mut work = Vec::with_capacity(step.ops().len());
        for op in step.ops() {
            work.push(match op {
                Op::Load { out, data } => Work::Load { out: tensor(out), data },
                Op::Embed { table, scale, out } => {
                    Work::Embed { table: panels(resident, *table)?, scale: *scale, out: tensor(out) }
                }
                Op::RmsNorm { x, add, weight, epsilon, heads: _, out } => Work::Norm(Norm {
                    x: tensor(x),
                    cols: x.cols as usize,
                    rows: step.row_count(x.rows),
                    add: add.as_ref().map(tensor),
                    weight: resident.vector(*weight)?,
                    epsilon: *epsilon,
                    out: tensor(out),
                    outputs: (x.rows, out.rows) == (RowSet::All, RowSet::Outputs),
                }),
                Op::LoraMatmul { x, projections } => {
                    let sites = sites.next().unwrap_or_default();
                    let projections = projections.iter().map(|(id, y)| {
                        let projection = resident.projection(*id)?;
                        let bias = projection.bias.map(|b| resident.vector(b)).transpose()?;
                        Ok(Projection { w: panels(resident, projection.matrix)?, bias, y: tensor(y) })
                    });
                    let projections = projections.collect::<Result<_, BackendError>>()?;
                    let rows = step.row_count(x.rows);
                    Work::Matmul(LoraMatmul::new(
                        tensor(x),
                        rows,
                        numerics,
                        projections,
                        groups.of(x.rows),
                        &sites,
                        scratch,
                    ))
                }
                Op::Rope { x, head_dim, table } => Work::Rope {
                    x: tensor(x),
                    cols: x.cols as usize,
                    rows: x.rows,
                    head_dim: *head_dim as usize,
                    table: resident.rope(*table)?,
                },
                Op::KvAppend { layer, k, v } => Work::KvAppend { layer: *layer, k: tensor(k), v: tensor(v) },
                Op::Arrive { layer, pages } => Work::Arrive { layer: *layer, pages },
                Op::KvRead { layer, rope, out, at } => Work::KvRead {
                    layer: *layer,
                    table: rope.map(|table| resident.rope(table)).transpose()?,
                    out: columns(out, *at, 2 * pool.geometry().kv_heads * pool.geometry().head_dim),
                },
                Op::Add { x, from, at } => Work::Add {
                    x: tensor(x),
                    rows: step.row_count(x.rows),
                    from: columns(from, *at, x.cols as usize),
                },
                Op::PagedAttention { layer, shape, q, out } => {
                    let attention = PagedAttention::new(
                        batch,
                        plans.of(*layer, *shape),
                        *layer,
                        *shape,
                        tensor(q),
                        tensor(out),
                        resident,
                        partials,
                    );
                    Work::Attention(attention.measured(step.mass(), masses))
                }
                Op::SwiGlu { activation, gate, up, out } => Work::SwiGlu {
                    activation: *activation,
                    gate: tensor(gate),
                    up: tensor(up),
                    out: tensor(out),
                    n: step.row_count(gate.rows) * gate.cols as usize,
                },
                Op::Softcap { x, cap } => {
                    Work::Softcap { x: tensor(x), n: step.row_count(x.rows) * x.cols as usize, cap: *cap }
                }
                Op::Sample { logits } => Work::Sample { logits: tensor(logits), cols: logits.cols as usize },
                Op::Probe { x } => Work::Probe { x: tensor(x) },
                other => {
                    let what = other.stem().into();
                    return Err(BackendError::Unsupported { backend: "cpu", what });
                }
            });
        }
        let (output, totals) = (Mutex::default(), Mutex::new(Totals::new(step)));
        Ok(Self { step, work, pool: RwLock::new(pool), output, totals, ends: None })
    }

    /// The same with each operation timed, if that is wanted.
    pub fn timed(mut self, wanted: bool) -> Self {
        self.ends = wanted.then(|| Mutex::new(Vec::with_capacity(self.work.len() + 1)));
        self
    }

    /// How long each operation took, by its stem; nothing where it was not timed.
    pub fn times(&self) -> Vec<(&'static str, Duration)> {
        let Some(ends) = &self.ends else { return Vec::new() };
        let ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
        let took = ends.windows(2).map(|at| at[1] - at[0]);
        self.step.ops().iter().map(Op::stem).zip(took).collect()
    }

    /// What the step gave.
    pub fn output(self) -> StepOutput {
        let mut output = self.output.into_inner().unwrap_or_else(PoisonError::into_inner);
        output.tokens.sort_by_key(|sampled| sampled.output);
        output.mass = self.totals.into_inner().unwrap_or_else(PoisonError::into_inner).weights();
        output
    }

    /// Carries the step out, together with the other workers of the region.
    ///
    /// # Safety
    /// The machine has the tier, and every worker of the region calls this.
    pub unsafe fn walk<I: Isa>(&self, worker: &Worker<'_>) {
        let shared = || self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals = shared().zeros();
        let ends = self.ends.as_ref().filter(|_| worker.is_first());
        let note = || {
            if let Some(ends) = ends {
                ends.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
        };
        note();
        for (i, work) in self.work.iter().enumerate() {
            self.one::<I>(work, &self.work[i + 1..], worker, &mut totals);
            note();
        }
        shared().merge(&totals);
    }

    unsafe fn one<I: Isa>(
        &self,
        work: &Work<'a>,
        later: &[Work<'a>],
        worker: &Worker<'_>,
        totals: &mut Totals,
    ) {
        let batch = self.step.batch();
        match work {
            Work::Load { out, data } => {
                let mine = worker.range(data.len());
                out.part_mut(mine.clone()).copy_from_slice(&data[mine]);
            }
            Work::Embed { table, scale, out } => {
                let cols = table.cols();
                for i in worker.range(batch.rows.len()) {
                    embed::embed(table, batch.rows[i].token, *scale, out.part_mut(i * cols..(i + 1) * cols));
                }
            }
            Work::Norm(norm) => return self.norm::<I>(norm, worker),
            Work::Matmul(layer) => return layer.run::<I>(later.iter().find_map(Work::as_matmul), worker),
            Work::Rope { x, cols, rows, head_dim, table } => {
                let positions: Vec<usize> = self.step.rows(*rows).map(|r| r.position as usize).collect();
                for i in worker.range(positions.len()) {
                    let row = x.part_mut(i * cols..(i + 1) * cols);
                    I::enter(rope::Rope::new(row, *head_dim, table, positions[i], 1.0));
                }
                // Another one has the same rows for each worker.
                if matches!(later.first(), Some(Work::Rope { .. })) {
                    return;
                }
            }
            Work::KvAppend { layer, k, v } => {
                if worker.is_first() {
                    let mut pool = self.pool.write().unwrap_or_else(PoisonError::into_inner);
                    let appended = kv_append::kv_append(batch, *layer, k.all(), v.all(), &mut pool);
                    // The step was checked: every entry is in the pool. What panics here ends the step with an error.
                    assert!(appended.is_ok(), "{appended:?}");
                }
            }
            Work::Arrive { layer, pages } => {
                if worker.is_first() {
                    let mut pool = self.pool.write().unwrap_or_else(PoisonError::into_inner);
                    let put = pages.put(*layer, |place, bytes| {
                        pool.page_mut(place)?.copy_from_slice(&bytes);
                        Ok::<(), BackendError>(())
                    });
                    // As for what is appended.
                    assert!(put.is_ok(), "{put:?}");
                }
            }
            Work::KvRead { layer, table, out } => {
                let pool = self.pool.read().unwrap_or_else(PoisonError::into_inner);
                for i in worker.range(batch.rows.len()) {
                    let values = out.of.part_mut(out.row(i));
                    match kv_read::KvRead::new(batch, *layer, &batch.rows[i], *table, &pool, values) {
                        Ok(kernel) => I::enter(kernel),
                        Err(outside) => unreachable!("the step was checked: {outside}"),
                    }
                }
            }
            Work::Add { x, rows, from } => {
                for i in worker.range(*rows) {
                    let x = x.part_mut(i * from.width..(i + 1) * from.width);
                    I::enter(add::Add { x, delta: from.of.part(from.row(i)) });
                }
            }
            Work::Attention(layer) => {
                let pool = self.pool.read().unwrap_or_else(PoisonError::into_inner);
                return layer.run::<I>(&pool, worker, totals);
            }
            Work::SwiGlu { activation, gate, up, out, n } => {
                let mine = worker.range(*n);
                I::enter(swiglu::SwiGlu {
                    activation: *activation,
                    gate: gate.pointer(mine.clone()),
                    up: up.pointer(mine.clone()),
                    n: mine.len(),
                    out: out.pointer(mine),
                });
            }
            Work::Softcap { x, n, cap } => {
                I::enter(softcap::Softcap { x: x.part_mut(worker.range(*n)), cap: *cap })
            }
            Work::Sample { logits, cols } => {
                for i in worker.range(batch.outputs.len()) {
                    if let Some(sampler) = &batch.outputs[i].sampler {
                        let logits = logits.part(i * cols..(i + 1) * cols);
                        let token = I::enter(sample::Sample { logits, sampler });
                        let sampled = Sampled { output: i as u32, token };
                        self.output.lock().unwrap_or_else(PoisonError::into_inner).tokens.push(sampled);
                    }
                }
            }
            Work::Probe { x } => {
                if worker.is_first() {
                    let values = x.all().to_vec();
                    self.output.lock().unwrap_or_else(PoisonError::into_inner).probes.push(values);
                }
            }
        }
        worker.wait();
    }

    /// # Safety
    /// As [`Plan::walk`].
    unsafe fn norm<I: Isa>(&self, norm: &Norm<'_>, worker: &Worker<'_>) {
        let cols = norm.cols;
        let mine = worker.range(norm.rows);
        let values = mine.start * cols..mine.end * cols;
        if let Some(delta) = norm.add {
            let x = norm.x.part_mut(values.clone());
            I::enter(add::Add { x, delta: delta.part(values.clone()) });
        }
        let form = |x: *const f32, out: *mut f32, n| rms_norm::RmsNorm {
            x,
            out,
            n,
            weight: norm.weight,
            epsilon: norm.epsilon,
        };
        if norm.outputs {
            // Rows that other workers may have added to.
            worker.wait();
            for i in worker.range(self.step.batch().outputs.len()) {
                let row = self.step.batch().outputs[i].row as usize;
                let x = norm.x.pointer(row * cols..(row + 1) * cols);
                I::enter(form(x, norm.out.pointer(i * cols..(i + 1) * cols), cols));
            }
        } else {
            let x = norm.x.pointer(values.clone());
            I::enter(form(x, norm.out.pointer(values.clone()), values.len()));
        }
        worker.wait();
    }
}

/// The plans of a step's attention layers: one for all that have the same heads, window and pages.
struct AttentionPlans<'a> {
    batch: &'a Batch,
    bands: Bands,
    made: Vec<(AttentionShape, usize, Arc<paged_attention::Plan<'a>>)>,
}

impl<'a> AttentionPlans<'a> {
    fn new(batch: &'a Batch) -> Self {
        Self { batch, bands: Bands::of(&batch.sequences), made: Vec::new() }
    }

    fn of(&mut self, layer: u32, shape: AttentionShape) -> Arc<paged_attention::Plan<'a>> {
        let band = self.bands.first(layer as usize);
        let alike = |of: &AttentionShape| {
            (of.heads, of.kv_heads, of.window) == (shape.heads, shape.kv_heads, shape.window)
        };
        if let Some((_, _, plan)) = self.made.iter().find(|(of, at, _)| *at == band && alike(of)) {
            return Arc::clone(plan);
        }
        let plan = Arc::new(paged_attention::Plan::new(self.batch, band, shape));
        self.made.push((shape, band, Arc::clone(&plan)));
        plan
    }
}

/// How much scratch a step needs at most.
struct Sizes {
    values: usize,
    z: usize,
    partials: usize,
    masses: usize,
}

/// Sizes scratch, and finds the sites of every linear layer in the order of the operations.
fn sizes<'a>(
    step: &'a Step,
    resident: &'a Resident<Packed>,
    groups: &Groups,
    plans: &mut AttentionPlans<'a>,
    all_sites: &mut Vec<Sites<'a>>,
) -> Result<Sizes, BackendError> {
    let mut sizes = Sizes { values: 0, z: 0, partials: 0, masses: 0 };
    for op in step.ops() {
        match op {
            Op::LoraMatmul { x, projections } => {
                sizes.values = sizes.values.max(step.row_count(x.rows) * x.cols as usize);
                let sites = sites(step.batch(), projections, resident)?;
                let shrunk = groups.of(x.rows).iter().zip(&sites).map(|(rows, sites)| {
                    rows.len() * sites.iter().flatten().map(|site| site.rank()).sum::<usize>()
                });
                sizes.z = sizes.z.max(shrunk.sum());
                all_sites.push(sites);
            }
            Op::PagedAttention { layer, shape, .. } => {
                let plan = plans.of(*layer, *shape);
                sizes.partials = sizes.partials.max(paged_attention::scratch_len(&plan, *shape));
                if step.mass().is_some_and(|sample| sample.has_layer(*layer)) {
                    sizes.masses = sizes.masses.max(paged_attention::sums_len(&plan));
                }
            }
            _ => {}
        }
    }
    Ok(sizes)
}

/// The rows of each adapter of the batch, in either set of rows.
struct Groups {
    all: Vec<Vec<usize>>,
    outputs: Vec<Vec<usize>>,
}

impl Groups {
    fn new(step: &Step) -> Self {
        let of = |rows| {
            let mut groups = vec![Vec::new(); step.batch().adapters.len()];
            for (i, row) in step.rows(rows).enumerate() {
                if let Ok(slot) = usize::try_from(row.adapter) {
                    groups[slot].push(i);
                }
            }
            groups
        };
        Self { all: of(RowSet::All), outputs: of(RowSet::Outputs) }
    }

    fn of(&self, rows: RowSet) -> &[Vec<usize>] {
        match rows {
            RowSet::All => &self.all,
            RowSet::Outputs => &self.outputs,
        }
    }
}

/// Each adapter's site on each projection of a layer.
type Sites<'a> = Vec<Vec<Option<&'a HostSite<Packed>>>>;

fn sites<'a>(
    batch: &Batch,
    projections: &[(ProjectionId, Tensor)],
    resident: &'a Resident<Packed>,
) -> Result<Sites<'a>, BackendError> {
    let of = |adapter| {
        let sites = resident.adapter(adapter)?;
        Ok(projections.iter().map(|(id, _)| sites.get(id)).collect())
    };
    batch.adapters.iter().map(|adapter| of(*adapter)).collect()
}

fn panels(resident: &Resident<Packed>, id: MatrixId) -> Result<&Panels, BackendError> {
    match resident.matrix(id)? {
        Packed::Panels(panels) => Ok(panels),
        Packed::Rows(m) => {
            let what = format!("{}: an adapter's factor as a weight", m.name());
            Err(BackendError::Unsupported { backend: "cpu", what })
        }
    }
}
