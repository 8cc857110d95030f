//! `paged_attention` with the heads of Llama 3.2 1B over f16 pages: decode at growing depths, alone, in a batch and in
//! a batch that shares its pages, and a prefill, on every backend at hand.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput};
use interleaf_contract::{Batch, CHUNK_TOKENS, Numerics, Op, PageElement, RowKind, RowSet, Step};
use interleaf_tests::attention::{AttentionCase, SequenceData, SequenceSpec, naive};
use interleaf_tests::backends::{self, Boxed};

/// Rows of a batch, whether they read the pages of one sequence, and at which depths. Sixteen sequences of their own have
/// shorter ones, lest a layer's pages be beyond the 128 MiB that a GPU binds at least.
const BATCHES: [(usize, bool, [usize; 3]); 3] =
    [(1, false, [512, 4096, 16_384]), (16, false, [512, 1024, 2048]), (16, true, [512, 4096, 16_384])];
const PREFILL: usize = 512;

/// The layer whose pages the case fills.
const LAYER: u32 = 1;

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = cpu, gpu
);

fn cpu(c: &mut Criterion) {
    bench(c, "cpu", || Some(backends::cpu(0, Numerics::ActF32)));
}

fn gpu(c: &mut Criterion) {
    bench(c, "gpu", backends::gpu);
}

fn bench(c: &mut Criterion, name: &str, backend: impl Fn() -> Option<Boxed>) {
    for (rows, shared, depths) in BATCHES {
        let what = if shared { "sharing their pages" } else { "apart" };
        let mut group = c.benchmark_group(format!("paged_attention/{name}/decode {rows} {what}"));
        for depth in depths {
            let spec = SequenceSpec { tokens: depth, queries: 1, kind: RowKind::Generated };
            let Some(mut rig) = backend().map(|backend| Rig::new(backend, rows, shared, spec)) else {
                return;
            };
            let read = if shared { 1 } else { rows };
            group.throughput(Throughput::Bytes(
                (read * depth * rig.case.kv_heads * rig.case.head_dim * 4) as u64,
            ));
            rig.check();
            group.bench_function(BenchmarkId::new("depth", depth), |b| b.iter(|| rig.run(false)));
        }
        group.finish();
    }
    let mut group = c.benchmark_group(format!("paged_attention/{name}/prefill"));
    let spec = SequenceSpec { tokens: PREFILL, queries: PREFILL, kind: RowKind::Prompt };
    let Some(mut rig) = backend().map(|backend| Rig::new(backend, 1, false, spec)) else { return };
    // Two products of each query with each token before it, and itself.
    let pairs = PREFILL * (PREFILL + 1) / 2;
    group.throughput(Throughput::Elements((4 * pairs * rig.case.heads * rig.case.head_dim) as u64));
    rig.check();
    group.bench_function(BenchmarkId::new("tokens", PREFILL), |b| b.iter(|| rig.run(false)));
    group.finish();
}

/// Sequences with their pages on a backend.
struct Rig {
    backend: Boxed,
    case: AttentionCase,
    data: Vec<SequenceData>,
    batch: Batch,
    queries: Arc<[f32]>,
}

impl Rig {
    fn new(mut backend: Boxed, rows: usize, shared: bool, spec: SequenceSpec) -> Self {
        let sequences = vec![spec; if shared { 1 } else { rows }];
        let case = AttentionCase {
            heads: 32,
            kv_heads: 8,
            head_dim: 64,
            element: PageElement::F16,
            sequences,
            seed: 4,
        };
        let data = case.data();
        let (mut batch, pages, geometry) = case.batch(&data);
        backend.create_pool(geometry).expect("room for the pages");
        backend.write_pages(&pages).expect("pages of the pool");
        let mut queries: Vec<f32> = data.iter().flat_map(|s| s.q.iter().copied()).collect();
        if shared {
            // As many sequences that name the same pages, which is lawful where nobody writes to them.
            let (row, sequence) = (batch.rows[0], batch.sequences[0].clone());
            batch.rows =
                (0..rows as u32).map(|sequence| interleaf_contract::Row { sequence, ..row }).collect();
            batch.sequences = vec![sequence; rows];
            queries = queries.repeat(rows);
        }
        assert!(spec.tokens.is_multiple_of(CHUNK_TOKENS), "whole pages");
        Self { backend, case, data, batch, queries: queries.into() }
    }

    /// One layer's attention of all rows; its answer comes back only if it is probed.
    fn run(&mut self, probe: bool) -> Vec<f32> {
        let mut step = Step::new(self.batch.clone()).expect("a well-formed batch");
        let cols = (self.case.heads * self.case.head_dim) as u32;
        let (q, out) = (step.tensor(RowSet::All, cols), step.tensor(RowSet::All, cols));
        step.push(Op::Load { out: q, data: Arc::clone(&self.queries) });
        step.push(Op::PagedAttention { layer: LAYER, shape: self.case.shape(), q, out });
        if probe {
            step.probe(out);
        }
        let ticket = self.backend.submit(step).expect("the step is lawful");
        self.backend.wait(ticket).expect("the step ends").probes.pop().unwrap_or_default()
    }

    /// The answer against softmax attention as anyone would write it, row by row.
    fn check(&mut self) {
        let found = self.run(true);
        let expected: Vec<f32> = self.data.iter().flat_map(|data| naive(&self.case, data)).collect();
        assert_eq!(found.len(), self.queries.len(), "rows times heads times dimensions");
        for (i, (found, expected)) in found.iter().zip(expected.iter().cycle()).enumerate() {
            // Values are below 1, and so is what they are mixed to.
            assert!((found - expected).abs() <= 2e-4, "value {i}: {found}, expected {expected}");
        }
    }
}
