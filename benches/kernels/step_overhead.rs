//! What a step costs apart from its kernels: planning it, waking the workers, and a barrier after every operation.
//!
//! The operations of one decoded token over sixteen layers, as Llama 3.2 1B has them, are timed at two widths. At width
//! 32 there is next to nothing to compute, so that the time is the step's own; at the model's own widths it is the step
//! that the first is a share of.

use criterion::{BenchmarkId, Criterion};
use interleaf_contract::{
    Activation, AttentionShape, Backend, Batch, Dtype, MatrixId, Numerics, Op, Output, PageElement,
    PageTable, PoolGeometry, Projection, ProjectionId, RopeId, RopeTable, Row, RowKind, RowSet, Sampler,
    Sequence, Step, VectorId,
};
use interleaf_tests::backends::{self, Boxed};
use interleaf_tests::data::{Random, matrix};

const LAYERS: usize = 16;

/// Layers with weights of their own; the others take turns at them. Two of full width are beyond common caches.
const DISTINCT: usize = 2;

const HEAD_DIM: usize = 32;

/// Rows of the embedding.
const TOKENS: usize = 32;

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = cpu
);

fn cpu(c: &mut Criterion) {
    let mut group = c.benchmark_group("step/cpu");
    for (name, widths) in
        [("width 32", Widths::new(32, 32, 32, 32)), ("1b", Widths::new(2048, 512, 8192, 128_256))]
    {
        let expected = Rig::new(backends::reference(Numerics::ActQ8_0), widths).token();
        for threads in [1, 2] {
            let mut rig = Rig::new(backends::cpu(threads, Numerics::ActQ8_0), widths);
            assert_eq!(rig.token(), expected, "the token that the reference chooses");
            group.bench_function(BenchmarkId::new(name, format!("{threads} threads")), |b| {
                b.iter(|| rig.token());
            });
        }
    }
    group.finish();
}

#[derive(Clone, Copy)]
struct Widths {
    hidden: usize,
    kv: usize,
    inner: usize,
    vocabulary: usize,
}

/// Room for one chunk.
fn pool(widths: Widths) -> PoolGeometry {
    let kv_heads = widths.kv / HEAD_DIM;
    PoolGeometry { layers: LAYERS, kv_heads, head_dim: HEAD_DIM, slots: 1, element: PageElement::F16 }
}

impl Widths {
    const fn new(hidden: usize, kv: usize, inner: usize, vocabulary: usize) -> Self {
        Self { hidden, kv, inner, vocabulary }
    }
}

struct Layer {
    norm: VectorId,
    q: ProjectionId,
    k: ProjectionId,
    v: ProjectionId,
    o: ProjectionId,
    gate: ProjectionId,
    up: ProjectionId,
    down: ProjectionId,
}

struct Rig {
    backend: Boxed,
    widths: Widths,
    layers: Vec<Layer>,
    embedding: MatrixId,
    head: ProjectionId,
    rope: RopeId,
}

impl Rig {
    fn new(mut backend: Boxed, widths: Widths) -> Self {
        let Widths { hidden, kv, inner, vocabulary } = widths;
        let mut random = Random::new(11);
        let mut projection = |backend: &mut dyn Backend, outputs, inputs| {
            let w = matrix("w", Dtype::Q4_0, outputs, inputs, &mut random);
            let matrix = backend.create_matrix(w).expect("room for a matrix");
            backend
                .create_projection(Projection { name: "w".into(), matrix, bias: None })
                .expect("a projection")
        };
        let layers = (0..DISTINCT).map(|_| Layer {
            norm: backend.create_vector("norm", &vec![1.0; hidden]).expect("room for a vector"),
            q: projection(&mut *backend, hidden, hidden),
            k: projection(&mut *backend, kv, hidden),
            v: projection(&mut *backend, kv, hidden),
            o: projection(&mut *backend, hidden, hidden),
            gate: projection(&mut *backend, inner, hidden),
            up: projection(&mut *backend, inner, hidden),
            down: projection(&mut *backend, hidden, inner),
        });
        let layers = layers.collect();
        let head = projection(&mut *backend, vocabulary, hidden);
        // Of which one row is read.
        let table = matrix("embedding", Dtype::F16, TOKENS, hidden, &mut Random::new(12));
        let embedding = backend.create_matrix(table).expect("room for a matrix");
        let angles = (0..16 * HEAD_DIM / 2).map(|i| i as f32);
        let (cos, sin) = (angles.clone().map(f32::cos).collect(), angles.map(f32::sin).collect());
        let rope = RopeTable { rotary_dim: HEAD_DIM, positions: 16, cos, sin };
        let rope = backend.create_rope(rope).expect("room for a table");
        backend.create_pool(pool(widths)).expect("room for a pool");
        Self { backend, widths, layers, embedding, head, rope }
    }

    /// Decodes one token at the first position.
    fn token(&mut self) -> u32 {
        let Widths { hidden, kv, inner, vocabulary } = self.widths;
        let batch = Batch {
            rows: vec![Row { token: 5, position: 0, sequence: 0, adapter: -1, kind: RowKind::Generated }],
            sequences: vec![Sequence { pages: PageTable::uniform(&pool(self.widths), 0..1) }],
            outputs: vec![Output { row: 0, sampler: Some(Sampler::greedy()) }],
            ..Batch::default()
        };
        let mut step = Step::new(batch).expect("a well-formed batch");
        let mut tensor = |cols: usize| step.tensor(RowSet::All, cols as u32);
        let (x, normed, mixed, delta) = (tensor(hidden), tensor(hidden), tensor(hidden), tensor(hidden));
        let (q, k, v) = (tensor(hidden), tensor(kv), tensor(kv));
        let (gate, up) = (tensor(inner), tensor(inner));
        let shape = AttentionShape {
            heads: (hidden / HEAD_DIM) as u32,
            kv_heads: (kv / HEAD_DIM) as u32,
            head_dim: HEAD_DIM as u32,
            scale: 0.2,
            softcap: None,
            window: None,
        };
        step.push(Op::Embed { table: self.embedding, scale: 1.0, out: x });
        let mut add = None;
        for index in 0..LAYERS {
            let layer = &self.layers[index % DISTINCT];
            let norm = |add| Op::RmsNorm { x, add, weight: layer.norm, epsilon: 1e-5, heads: 1, out: normed };
            step.push(norm(add));
            step.push(Op::LoraMatmul {
                x: normed,
                projections: vec![(layer.q, q), (layer.k, k), (layer.v, v)],
            });
            step.push(Op::Rope { x: q, head_dim: HEAD_DIM as u32, table: self.rope });
            step.push(Op::Rope { x: k, head_dim: HEAD_DIM as u32, table: self.rope });
            step.push(Op::KvAppend { layer: index as u32, k, v });
            step.push(Op::PagedAttention { layer: index as u32, shape, q, out: mixed });
            step.push(Op::LoraMatmul { x: mixed, projections: vec![(layer.o, delta)] });
            step.push(norm(Some(delta)));
            step.push(Op::LoraMatmul { x: normed, projections: vec![(layer.gate, gate), (layer.up, up)] });
            step.push(Op::SwiGlu { activation: Activation::Silu, gate, up, out: gate });
            step.push(Op::LoraMatmul { x: gate, projections: vec![(layer.down, delta)] });
            add = Some(delta);
        }
        let last = step.tensor(RowSet::Outputs, hidden as u32);
        let logits = step.tensor(RowSet::Outputs, vocabulary as u32);
        let weight = self.layers[0].norm;
        step.push(Op::RmsNorm { x, add, weight, epsilon: 1e-5, heads: 1, out: last });
        step.push(Op::LoraMatmul { x: last, projections: vec![(self.head, logits)] });
        step.push(Op::Sample { logits });
        let ticket = self.backend.submit(step).expect("the step is lawful");
        self.backend.wait(ticket).expect("the step ends").tokens[0].token.expect("finite logits")
    }
}
