//! A model of random weights whose whole steps are timed: sixteen layers' operations, as Llama 3.2 1B has them, at any widths.

use std::ops::Range;

use interleaf_contract::{
    Activation, AttentionShape, Backend, Batch, CHUNK_TOKENS, Dtype, MatrixId, Op, Output, PageData,
    PageElement, PageHalf, PageTable, PoolGeometry, Projection, ProjectionId, RopeId, RopeTable, Row,
    RowKind, RowSet, Sampler, Sequence, Step, StepOutput, VectorId,
};
use interleaf_tests::backends::Boxed;
use interleaf_tests::data::{Random, aligned, matrix};

/// Layers of the model.
pub const LAYERS: usize = 16;

/// Layers with weights of their own; the others take turns at them. Two of full width are beyond common caches.
const DISTINCT: usize = 2;

/// Rows of the embedding.
const TOKENS: usize = 32;

#[derive(Clone, Copy)]
pub struct Widths {
    hidden: usize,
    kv: usize,
    inner: usize,
    vocabulary: usize,
    head_dim: usize,
}

impl Widths {
    pub const fn new(hidden: usize, kv: usize, inner: usize, vocabulary: usize, head_dim: usize) -> Self {
        Self { hidden, kv, inner, vocabulary, head_dim }
    }

    fn pool(self, chunks: usize) -> PoolGeometry {
        let (kv_heads, head_dim) = (self.kv / self.head_dim, self.head_dim);
        PoolGeometry { layers: LAYERS, kv_heads, head_dim, slots: chunks, element: PageElement::F16 }
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

/// The model on a backend, with room for one sequence.
pub struct Model {
    backend: Boxed,
    widths: Widths,
    pool: PoolGeometry,
    layers: Vec<Layer>,
    embedding: MatrixId,
    head: ProjectionId,
    rope: RopeId,
}

impl Model {
    /// With so many tokens in the sequence's pages.
    pub fn new(mut backend: Boxed, widths: Widths, tokens: usize) -> Self {
        let Widths { hidden, kv, inner, vocabulary, head_dim } = widths;
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
        let chunks = tokens.div_ceil(CHUNK_TOKENS);
        let positions = chunks * CHUNK_TOKENS;
        let angles = (0..positions * head_dim / 2).map(|i| i as f32);
        let (cos, sin) = (angles.clone().map(f32::cos).collect(), angles.map(f32::sin).collect());
        let rope = RopeTable { rotary_dim: head_dim, positions, cos, sin };
        let rope = backend.create_rope(rope).expect("room for a table");
        let pool = widths.pool(chunks);
        backend.create_pool(pool).expect("room for a pool");
        backend.write_pages(&pages(&pool)).expect("pages of the pool");
        Self { backend, widths, pool, layers, embedding, head, rope }
    }

    /// The step of rows at some positions, the last of which chooses a token.
    pub fn step(&self, kind: RowKind, positions: Range<u32>) -> Step {
        let Widths { hidden, kv, inner, vocabulary, head_dim } = self.widths;
        let row = |position| Row { token: 5, position, sequence: 0, adapter: -1, kind };
        let slots = 0..self.pool.slots as u32;
        let batch = Batch {
            rows: positions.clone().map(row).collect(),
            sequences: vec![Sequence { pages: PageTable::uniform(&self.pool, slots) }],
            outputs: vec![Output {
                row: positions.end - positions.start - 1,
                sampler: Some(Sampler::greedy()),
            }],
            ..Batch::default()
        };
        let mut step = Step::new(batch).expect("a well-formed batch");
        let mut tensor = |cols: usize| step.tensor(RowSet::All, cols as u32);
        let (x, normed, mixed, delta) = (tensor(hidden), tensor(hidden), tensor(hidden), tensor(hidden));
        let (q, k, v) = (tensor(hidden), tensor(kv), tensor(kv));
        let (gate, up) = (tensor(inner), tensor(inner));
        let shape = AttentionShape {
            heads: (hidden / head_dim) as u32,
            kv_heads: (kv / head_dim) as u32,
            head_dim: head_dim as u32,
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
            step.push(Op::Rope { x: q, head_dim: head_dim as u32, table: self.rope });
            step.push(Op::Rope { x: k, head_dim: head_dim as u32, table: self.rope });
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
        step
    }

    /// Runs a step to its end.
    pub fn run(&mut self, step: Step) -> StepOutput {
        let ticket = self.backend.submit(step).expect("the step is lawful");
        self.backend.wait(ticket).expect("the step ends")
    }
}

/// The same numbers in every page.
fn pages(pool: &PoolGeometry) -> Vec<PageData> {
    let values = Random::new(13).values(pool.page_elements());
    let bytes: Vec<u8> = values.into_iter().flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect();
    let bytes = aligned(&bytes);
    let mut pages = Vec::new();
    for layer in 0..pool.layers as u32 {
        for slot in 0..pool.slots as u32 {
            for half in [PageHalf::K, PageHalf::V] {
                pages.push(PageData { address: pool.page(layer, slot, half), bytes: bytes.clone() });
            }
        }
    }
    pages
}
