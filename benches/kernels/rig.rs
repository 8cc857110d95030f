//! What a bench of `lora_matmul` runs on: a backend with more weights than caches hold, and the reference
//! that checks its answers.

use std::cell::RefCell;
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use interleaf_contract::{
    Adapter, AdapterId, Batch, Dtype, LoraSite, Matrix, Numerics, Op, Projection, ProjectionId, RowKind,
    RowSet, Step,
};
use interleaf_tests::backends::{self, Boxed};
use interleaf_tests::data::{Random, magnitudes, matrix};
use interleaf_tests::lora::{one_page, rows};
use interleaf_tests::tolerance::{assert_within, roundings};

/// Inputs and outputs of the layer.
pub const HIDDEN: usize = 2048;
pub const RANK: usize = 16;

/// Decode goes round through this many bytes of weights: beyond the last-level cache of common machines.
const ROTATION: usize = 128 << 20;

/// ε times what a kernel that adds in f32 may be off by, as a share of the magnitudes.
pub fn f32_roundings() -> f64 {
    2.0 * roundings(HIDDEN, RANK)
}

/// Rows of a batch and what they are.
pub type Shape = (usize, RowKind);

/// A group named `PREFIX/decode N` or `PREFIX/prefill N`. Decode is held to memory bandwidth, prefill to
/// arithmetic.
pub fn group<'a>(
    c: &'a mut Criterion,
    prefix: &str,
    dtype: Dtype,
    (count, kind): Shape,
) -> BenchmarkGroup<'a, WallTime> {
    let (phase, throughput) = match kind {
        RowKind::Generated => ("decode", Throughput::Bytes(weight_bytes(dtype) as u64)),
        RowKind::Prompt => ("prefill", Throughput::Elements((2 * count * HIDDEN * HIDDEN) as u64)),
    };
    let mut group = c.benchmark_group(format!("{prefix}/{phase} {count}"));
    group.throughput(throughput);
    group
}

fn weight_bytes(dtype: Dtype) -> usize {
    dtype.row_bytes(HIDDEN).expect("whole blocks") * HIDDEN
}

/// Things that are used in turn.
pub struct Round<T> {
    items: Vec<T>,
    next: usize,
}

impl<T> Round<T> {
    pub fn new(items: Vec<T>) -> Self {
        Self { items, next: 0 }
    }

    /// Begins again with the first.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    pub fn next(&mut self) -> &T {
        let index = self.next;
        self.next = (index + 1) % self.items.len();
        &self.items[index]
    }
}

/// The numbers behind a rig.
pub struct Numbers {
    pub weights: Vec<Matrix>,
    /// A and B of each adapter; the same for every projection.
    pub factors: Vec<(Matrix, Matrix)>,
}

impl Numbers {
    /// Weights to go round through, and so many adapters.
    pub fn new(dtype: Dtype, adapters: usize, factors: Dtype) -> Self {
        let copies = ROTATION.div_ceil(weight_bytes(dtype));
        let mut random = Random::new(7);
        let weights = (0..copies).map(|_| matrix("w", dtype, HIDDEN, HIDDEN, &mut random)).collect();
        let mut factor = || {
            let a = matrix("lora_A", factors, RANK, HIDDEN, &mut random);
            (a, matrix("lora_B", factors, HIDDEN, RANK, &mut random))
        };
        Self { weights, factors: (0..adapters).map(|_| factor()).collect() }
    }

    /// Only the first weights, as magnitudes: what the bound is made of.
    fn magnitudes(&self) -> Self {
        let factors = self.factors.iter().map(|(a, b)| (magnitudes(a), magnitudes(b))).collect();
        Self { weights: vec![magnitudes(&self.weights[0])], factors }
    }
}

/// One backend with its weights and adapters.
pub struct Rig {
    backend: Boxed,
    projections: Round<ProjectionId>,
    adapters: Vec<AdapterId>,
}

impl Rig {
    pub fn new(mut backend: Boxed, numbers: &Numbers) -> Self {
        let projections: Vec<ProjectionId> = numbers
            .weights
            .iter()
            .map(|w| {
                let matrix = backend.create_matrix(w.clone()).expect("room for a matrix");
                let projection = Projection { name: "w".into(), matrix, bias: None };
                backend.create_projection(projection).expect("a projection")
            })
            .collect();
        let adapters = numbers
            .factors
            .iter()
            .map(|(a, b)| {
                let site = |&projection| LoraSite { projection, scale: 1.0, a: a.clone(), b: b.clone() };
                let sites = projections.iter().map(site).collect();
                backend.create_adapter(Adapter { name: "a".into(), sites }).expect("room for an adapter")
            })
            .collect();
        Self { backend, projections: Round::new(projections), adapters }
    }

    /// One step over the next projection, `adapters` of them in turn over the rows. Its answer comes back
    /// only if it is probed.
    pub fn run(&mut self, x: &Arc<[f32]>, (count, kind): Shape, adapters: usize, probe: bool) -> Vec<f32> {
        let adapter = |i: usize| if adapters == 0 { -1 } else { (i % adapters) as i32 };
        let kinds: Vec<(RowKind, i32)> = (0..count).map(|i| (kind, adapter(i))).collect();
        let batch = Batch {
            rows: rows(&kinds),
            sequences: (0..count).map(|_| one_page()).collect(),
            adapters: self.adapters[..adapters].to_vec(),
            ..Batch::default()
        };
        let mut step = Step::new(batch).expect("a well-formed batch");
        let (x_in, y) = (step.tensor(RowSet::All, HIDDEN as u32), step.tensor(RowSet::All, HIDDEN as u32));
        step.push(Op::Load { out: x_in, data: Arc::clone(x) });
        step.push(Op::LoraMatmul { x: x_in, projections: vec![(*self.projections.next(), y)] });
        if probe {
            step.probe(y);
        }
        let ticket = self.backend.submit(step).expect("the step is lawful");
        self.backend.wait(ticket).expect("the step ends").probes.pop().unwrap_or_default()
    }

    /// The answer over the first projection.
    pub fn answer(&mut self, x: &Arc<[f32]>, shape: Shape, adapters: usize) -> Vec<f32> {
        self.projections.rewind();
        self.run(x, shape, adapters, true)
    }
}

/// The first of a rig's projections on the reference, and the magnitudes that its bound is made of.
pub struct Reference {
    exact: RefCell<Rig>,
    magnitude: RefCell<Rig>,
}

impl Reference {
    pub fn new(numbers: &Numbers, numerics: Numerics) -> Self {
        let first = Numbers { weights: numbers.weights[..1].to_vec(), factors: numbers.factors.clone() };
        let rig = |numbers: &Numbers| RefCell::new(Rig::new(backends::reference(numerics), numbers));
        Self { exact: rig(&first), magnitude: rig(&numbers.magnitudes()) }
    }

    /// Checks the answer of `label` over the first projection, within `roundings` times ε of its magnitudes:
    /// the first and the last rows of the batch, since a row does not depend on its neighbours.
    pub fn check(
        &self,
        label: &str,
        found: &[f32],
        x: &[f32],
        (count, kind): Shape,
        adapters: usize,
        roundings: f64,
    ) {
        assert_eq!(found.len(), count * HIDDEN, "{label}: rows times outputs");
        let rows = count.min(16);
        let positive: Vec<f32> = x.iter().map(|v| v.abs()).collect();
        // Both parts begin with adapter 0: a batch has sixteen rows or fewer, or whole sixteens of them.
        for first in [0, count - rows] {
            let part = |x: &[f32]| -> Arc<[f32]> { x[first * HIDDEN..(first + rows) * HIDDEN].into() };
            let run = |rig: &RefCell<Rig>, x| rig.borrow_mut().run(&x, (rows, kind), adapters, true);
            let (exact, magnitude) = (run(&self.exact, part(x)), run(&self.magnitude, part(&positive)));
            assert_within(
                label,
                &exact,
                &found[first * HIDDEN..(first + rows) * HIDDEN],
                &magnitude,
                roundings,
            );
        }
    }
}
