//! `lora_matmul` at hidden 2048: rows × adapters × weight dtype, on every backend at hand.

use std::cell::RefCell;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use interleaf_contract::{
    Adapter, AdapterId, Batch, Dtype, LoraSite, Matrix, Numerics, Op, Projection, ProjectionId, RowKind,
    RowSet, Step,
};
use interleaf_tests::backends::{self, Boxed};
use interleaf_tests::data::{Random, magnitudes, matrix};
use interleaf_tests::lora::{one_page, rows};
use interleaf_tests::tolerance::{assert_within, roundings};

const HIDDEN: usize = 2048;
const RANK: usize = 16;

/// Decode goes round through this many bytes of weights: beyond the last-level cache of common machines.
const ROTATION: usize = 128 << 20;

/// Rows of the batch and what they are.
const SHAPES: [(usize, RowKind); 4] =
    [(1, RowKind::Generated), (4, RowKind::Generated), (16, RowKind::Generated), (512, RowKind::Prompt)];

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = cpu, gpu
);

fn cpu(c: &mut Criterion) {
    for dtype in [Dtype::F16, Dtype::Q8_0, Dtype::Q4_0] {
        bench(c, "cpu", backends::cpu(0, Numerics::ActQ8_0), dtype);
    }
}

fn gpu(c: &mut Criterion) {
    for dtype in [Dtype::F16, Dtype::Q8_0, Dtype::Q4_0] {
        if let Some(gpu) = backends::gpu() {
            bench(c, "gpu", gpu, dtype);
        }
    }
}

/// One backend with its weights and adapters.
struct Rig {
    backend: Boxed,
    projections: Vec<ProjectionId>,
    adapters: Vec<AdapterId>,
    next: usize,
}

/// The numbers behind a rig, for the reference.
struct Numbers {
    weights: Vec<Matrix>,
    /// A and B of each adapter; the same for every projection.
    factors: Vec<(Matrix, Matrix)>,
}

impl Numbers {
    fn new(dtype: Dtype, copies: usize) -> Self {
        let mut random = Random::new(7);
        let weights = (0..copies).map(|_| matrix("w", dtype, HIDDEN, HIDDEN, &mut random)).collect();
        let mut factor = || {
            let a = matrix("lora_A", Dtype::F16, RANK, HIDDEN, &mut random);
            (a, matrix("lora_B", Dtype::F16, HIDDEN, RANK, &mut random))
        };
        Self { weights, factors: (0..16).map(|_| factor()).collect() }
    }

    /// Only the first weights, as magnitudes: what the bound is made of.
    fn magnitudes(&self) -> Self {
        let factors = self.factors.iter().map(|(a, b)| (magnitudes(a), magnitudes(b))).collect();
        Self { weights: vec![magnitudes(&self.weights[0])], factors }
    }
}

impl Rig {
    fn new(mut backend: Boxed, numbers: &Numbers) -> Self {
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
        Self { backend, projections, adapters, next: 0 }
    }

    /// One step over the next projection, `adapters` of them in turn over the rows.
    fn run(
        &mut self,
        x: &Arc<[f32]>,
        (count, kind): (usize, RowKind),
        adapters: usize,
        probe: bool,
    ) -> Vec<f32> {
        let adapter = |i: usize| if adapters == 0 { -1 } else { (i % adapters) as i32 };
        let kinds: Vec<(RowKind, i32)> = (0..count).map(|i| (kind, adapter(i))).collect();
        let batch = Batch {
            rows: rows(&kinds),
            sequences: (0..count).map(|_| one_page()).collect(),
            adapters: self.adapters[..adapters].to_vec(),
            outputs: Vec::new(),
        };
        let mut step = Step::new(batch).expect("a well-formed batch");
        let (x_in, y) = (step.tensor(RowSet::All, HIDDEN as u32), step.tensor(RowSet::All, HIDDEN as u32));
        step.push(Op::Load { out: x_in, data: Arc::clone(x) });
        let projection = self.projections[self.next];
        self.next = (self.next + 1) % self.projections.len();
        step.push(Op::LoraMatmul { x: x_in, projections: vec![(projection, y)] });
        if probe {
            step.probe(y);
        }
        let ticket = self.backend.submit(step).expect("the step is lawful");
        self.backend.wait(ticket).expect("the step ends").probes.pop().unwrap_or_default()
    }
}

fn bench(c: &mut Criterion, name: &str, backend: Boxed, dtype: Dtype) {
    let numerics = backend.info().numerics;
    let bytes = dtype.row_bytes(HIDDEN).expect("whole blocks") * HIDDEN;
    let numbers = Numbers::new(dtype, ROTATION.div_ceil(bytes));
    let mut rig = Rig::new(backend, &numbers);
    let reference = Reference::new(&numbers, numerics);
    for shape @ (count, kind) in SHAPES {
        let group_name = match kind {
            RowKind::Generated => format!("lora_matmul/{name}/{dtype}/decode {count}"),
            RowKind::Prompt => format!("lora_matmul/{name}/{dtype}/prefill {count}"),
        };
        let mut group = c.benchmark_group(group_name);
        // Decode is held to memory bandwidth, prefill to arithmetic.
        group.throughput(match kind {
            RowKind::Generated => Throughput::Bytes(bytes as u64),
            RowKind::Prompt => Throughput::Elements((2 * count * HIDDEN * HIDDEN) as u64),
        });
        let x: Arc<[f32]> = Random::new(9).values(count * HIDDEN).into();
        for adapters in [0, 1, 16] {
            // Sixteen are resident; a batch of fewer rows uses as many as it has rows.
            check(&mut rig, &reference, &x, shape, adapters);
            group.bench_function(BenchmarkId::new("adapters", adapters), |b| {
                b.iter(|| rig.run(&x, shape, adapters, false));
            });
        }
        group.finish();
    }
}

/// The first of a rig's projections on the reference, and the magnitudes that its bound is made of.
struct Reference {
    exact: RefCell<Rig>,
    magnitude: RefCell<Rig>,
}

impl Reference {
    fn new(numbers: &Numbers, numerics: Numerics) -> Self {
        let first = Numbers { weights: numbers.weights[..1].to_vec(), factors: numbers.factors.clone() };
        let rig = |numbers: &Numbers| RefCell::new(Rig::new(backends::reference(numerics), numbers));
        Self { exact: rig(&first), magnitude: rig(&numbers.magnitudes()) }
    }
}

/// Checks what is about to be timed, within the tests' bound: the first and the last rows of the batch, since
/// a row does not depend on its neighbours.
fn check(rig: &mut Rig, reference: &Reference, x: &Arc<[f32]>, shape: (usize, RowKind), adapters: usize) {
    rig.next = 0;
    let (count, kind) = shape;
    let found = rig.run(x, shape, adapters, true);
    let rows = count.min(16);
    let positive: Arc<[f32]> = x.iter().map(|v| v.abs()).collect();
    // Both parts begin with adapter 0: a batch has either sixteen rows or fewer, or whole sixteens of them.
    for first in [0, count - rows] {
        let part = |x: &Arc<[f32]>| -> Arc<[f32]> { x[first * HIDDEN..(first + rows) * HIDDEN].into() };
        let run = |rig: &RefCell<Rig>, x| rig.borrow_mut().run(&x, (rows, kind), adapters, true);
        let (exact, magnitude) = (run(&reference.exact, part(x)), run(&reference.magnitude, part(&positive)));
        let found = &found[first * HIDDEN..(first + rows) * HIDDEN];
        assert_within("the bench's answer", &exact, found, &magnitude, 2.0 * roundings(HIDDEN, RANK));
    }
}
