//! What a device must get right before it is trusted: small steps with every kind of kernel, and the reference's
//! answer to each. Quick enough to run when a device is first seen; the tests of the kernels go much further.

use std::sync::Arc;

use interleaf_contract::{
    Activation, Adapter, AttentionShape, Backend, BackendError, Batch, Bytes, CHUNK_TOKENS, Dtype, LoraSite,
    Matrix, Op, Output, PageElement, PageTable, PoolGeometry, Projection, ProjectionId, RopeTable, Row,
    RowKind, RowSet, Sampler, Sequence, Step,
};

/// Pseudo-random values, the same everywhere.
struct Values(u64);

impl Values {
    fn word(&mut self) -> u32 {
        // Knuth's MMIX generator; its upper half is good enough for weights.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// From −1 to 1.
    fn float(&mut self) -> f32 {
        self.word() as f32 / (1_u32 << 31) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// A matrix whose products with values of about 1 are of about 1.
    fn matrix(&mut self, dtype: Dtype, rows: usize, cols: usize) -> Result<Matrix, BackendError> {
        let scale = 2.0 / (cols.max(1) as f32).sqrt();
        let mut bytes = Vec::new();
        for _ in 0..rows * cols / dtype.block_len() {
            match dtype {
                Dtype::F32 => bytes.extend((self.float() * scale).to_le_bytes()),
                Dtype::Bf16 => {
                    bytes.extend(((self.float() * scale).to_bits() >> 16).to_le_bytes()[..2].iter())
                }
                Dtype::F16 => bytes.extend(half(self.float() * scale).to_le_bytes()),
                Dtype::Q8_0 => {
                    bytes.extend(half(scale / 127.0).to_le_bytes());
                    bytes.extend((0..32).map(|_| (self.word() >> 24) as u8));
                }
                Dtype::Q4_0 => {
                    bytes.extend(half(scale / 8.0).to_le_bytes());
                    bytes.extend((0..16).map(|_| (self.word() >> 24) as u8));
                }
            }
        }
        Ok(Matrix::new("self-test", dtype, rows, cols, Bytes::from(bytes))?)
    }
}

/// A matrix of f16 subnormals, whose largest are 2⁻¹⁴.
fn subnormals(values: &mut Values, rows: usize, cols: usize) -> Result<Matrix, BackendError> {
    let word = |_| ((values.word() >> 16) as u16 & 0x83ff).to_le_bytes();
    let bytes: Vec<u8> = (0..rows * cols).flat_map(word).collect();
    Ok(Matrix::new("self-test", Dtype::F16, rows, cols, Bytes::from(bytes))?)
}

/// The binary16 below a positive or negative value of moderate size: which one does not matter here.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude < 0x3880_0000 {
        return sign;
    }
    sign | (((magnitude - 0x3800_0000) >> 13) as u16)
}

/// What a device answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Of about 1.
    pub values: Vec<f32>,
    /// Chosen by the largest of values that are far apart.
    pub tokens: Vec<Option<u32>>,
}

/// A step that a device is asked for, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    dtype: Dtype,
    element: PageElement,
    /// Whether heads and residuals have norms of their own.
    norms: bool,
    shape: Shape,
}

/// Sizes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    hidden: usize,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    mlp: usize,
    /// Tokens of the longer prompt.
    prompt: u32,
}

/// Rows that small workgroups norm, and a prompt that passes the border of a block.
const NARROW: Shape = Shape { hidden: 160, heads: 4, kv_heads: 2, head_dim: 32, mlp: 224, prompt: 270 };

/// Rows that large workgroups norm, and large heads.
const WIDE: Shape = Shape { hidden: 1088, heads: 2, kv_heads: 1, head_dim: 128, mlp: 160, prompt: 40 };

impl Check {
    /// Every check: all dtypes and codecs, each with kernels that another one lacks.
    pub const ALL: [Self; 6] = [
        Self { dtype: Dtype::F16, element: PageElement::F16, norms: false, shape: NARROW },
        Self { dtype: Dtype::Q8_0, element: PageElement::F16, norms: true, shape: NARROW },
        Self { dtype: Dtype::Q4_0, element: PageElement::F32, norms: false, shape: NARROW },
        Self { dtype: Dtype::Bf16, element: PageElement::F32, norms: true, shape: NARROW },
        Self { dtype: Dtype::F32, element: PageElement::F16, norms: false, shape: WIDE },
        Self { dtype: Dtype::Q4_0, element: PageElement::F16, norms: true, shape: WIDE },
    ];

    /// What it is of.
    #[must_use]
    pub fn name(self) -> String {
        let norms = if self.norms { " with norms on heads and residuals" } else { "" };
        let hidden = self.shape.hidden;
        format!("a layer of {} weights, {hidden} wide, over {} pages{norms}", self.dtype, self.element)
    }

    /// The last rows of a layer, prompt and generated rows of several adapters in one batch, then the tokens chosen.
    ///
    /// # Errors
    /// If the backend refuses or fails.
    pub fn run(self, backend: &mut dyn Backend) -> Result<Answer, BackendError> {
        let Shape { hidden, heads, kv_heads, head_dim, mlp, prompt } = self.shape;
        let mut values = Values(7);
        let (q_cols, kv_cols) = ((heads * head_dim) as usize, (kv_heads * head_dim) as usize);
        let shapes = [vec![(q_cols, hidden), (kv_cols, hidden), (kv_cols, hidden)], vec![(hidden, q_cols)]];
        let shapes = [shapes.as_slice(), &[vec![(mlp, hidden), (mlp, hidden)], vec![(hidden, mlp)]]].concat();
        let shapes = [shapes, vec![vec![(64, hidden)]]].concat();
        let mut projections: Vec<Vec<ProjectionId>> = Vec::new();
        for group in &shapes {
            let matrices: Result<Vec<Matrix>, _> =
                group.iter().map(|&(outs, ins)| values.matrix(self.dtype, outs, ins)).collect();
            let created = backend.create_matrices(matrices?)?;
            let mut ids = Vec::new();
            for (matrix, &(outs, _)) in created.into_iter().zip(group) {
                let bias = Some(backend.create_vector("bias", &values.floats(outs))?);
                ids.push(backend.create_projection(Projection { name: "self-test".into(), matrix, bias })?);
            }
            projections.push(ids);
        }
        let mut adapters = Vec::new();
        // The last one has an A that a device which flushes subnormals takes for zeros.
        for (rank, dtype, tiny) in [(5, Dtype::F16, false), (16, Dtype::F32, false), (3, Dtype::F16, true)] {
            let mut sites = Vec::new();
            for (&projection, &(outs, ins)) in projections.iter().flatten().zip(shapes.iter().flatten()) {
                let (a, scale) = match tiny {
                    true => (subnormals(&mut values, rank, ins)?, 8192.0 / (ins as f32).sqrt()),
                    false => (values.matrix(dtype, rank, ins)?, 0.5),
                };
                let b = values.matrix(dtype, outs, rank)?;
                sites.push(LoraSite { projection, scale, a, b });
            }
            adapters.push(backend.create_adapter(Adapter { name: "self-test".into(), sites })?);
        }
        let embedding = backend.create_matrix(values.matrix(self.dtype, 64, hidden)?)?;
        let on_hidden = backend.create_vector("norm", &values.floats(hidden))?;
        let on_head = backend.create_vector("norm", &values.floats(head_dim as usize))?;
        let positions = 300;
        let pairs = head_dim as usize / 2;
        let angles: Vec<f32> =
            (0..positions * pairs).map(|i| (i / pairs) as f32 * 0.9_f32.powi((i % pairs) as i32)).collect();
        let rope = backend.create_rope(RopeTable {
            rotary_dim: head_dim as usize,
            positions,
            cos: angles.iter().map(|a| a.cos()).collect(),
            sin: angles.iter().map(|a| a.sin()).collect(),
        })?;
        let element = self.element;
        let pool = PoolGeometry {
            layers: 1,
            kv_heads: kv_heads as usize,
            head_dim: head_dim as usize,
            slots: 25,
            element,
        };
        backend.create_pool(pool)?;

        // Two prompts, and rows that follow them in a second step; the last one goes on from the whole chunks of the
        // first prompt, which are read for both.
        let layer = Layer { check: self, projections, embedding, on_hidden, on_head, rope };
        let chunks = prompt / CHUNK_TOKENS as u32;
        let branch = chunks * CHUNK_TOKENS as u32;
        let prompts = vec![(0, RowKind::Prompt, 0..prompt, 0), (1, RowKind::Prompt, 0..20, -1)];
        let generated = vec![
            (0, RowKind::Generated, prompt..prompt + 1, 1),
            (1, RowKind::Generated, 20..22, 0),
            (2, RowKind::Generated, branch..branch + 1, 2),
        ];
        let mut found = Answer::default();
        for rows in [prompts, generated] {
            let mut batch = Batch { adapters: adapters.clone(), ..Batch::default() };
            for (sequence, kind, range, adapter) in rows {
                for position in range {
                    let token = (7 * position + 3 * sequence) % 64;
                    batch.rows.push(Row { token, position, sequence, adapter, kind });
                }
                let drawn = Sampler { temperature: 3.0, top_k: 20, top_p: 0.9, seed: 5, ..Sampler::greedy() };
                let sampler = Some(if sequence == 1 { drawn } else { Sampler::greedy() });
                batch.outputs.push(Output { row: batch.rows.len() as u32 - 1, sampler });
            }
            let pages = |slots: Vec<u32>| Sequence { pages: PageTable::uniform(&pool, slots) };
            let own = (0..20).collect();
            batch.sequences = vec![pages(own), pages(vec![20, 21]), pages((0..chunks).chain([24]).collect())];
            let step = layer.step([hidden, mlp], [heads, kv_heads, head_dim], batch)?;
            let ticket = backend.submit(step)?;
            let output = backend.wait(ticket)?;
            found.values.extend(output.probes.into_iter().flatten());
            found.tokens.extend(output.tokens.iter().map(|t| t.token));
        }
        for adapter in adapters {
            backend.drop_adapter(adapter)?;
        }
        Ok(found)
    }
}

/// Handles of a layer.
struct Layer {
    check: Check,
    projections: Vec<Vec<ProjectionId>>,
    embedding: interleaf_contract::MatrixId,
    on_hidden: interleaf_contract::VectorId,
    on_head: interleaf_contract::VectorId,
    rope: interleaf_contract::RopeId,
}

impl Layer {
    fn step(
        &self,
        [hidden, mlp]: [usize; 2],
        [heads, kv_heads, head_dim]: [u32; 3],
        batch: Batch,
    ) -> Result<Step, BackendError> {
        let Self { check, projections, embedding, on_hidden, on_head, rope } = self;
        let [qkv, o, gate_up, down, head] = projections.as_slice() else { return Ok(Step::new(batch)?) };
        let mut step = Step::new(batch)?;
        let (hidden, mlp) = (hidden as u32, mlp as u32);
        let mut all = |cols| step.tensor(RowSet::All, cols);
        let [x, normed, delta] = [hidden; 3].map(&mut all);
        let [q, mixed] = [heads * head_dim; 2].map(&mut all);
        let [k, v] = [kv_heads * head_dim; 2].map(&mut all);
        let [gate, up] = [mlp; 2].map(&mut all);
        let last = step.tensor(RowSet::Outputs, hidden);
        let norm = |x, add, weight, heads, out| Op::RmsNorm { x, add, weight, epsilon: 1e-5, heads, out };
        let matmul = |x, ps: &[ProjectionId], ys: &[_]| Op::LoraMatmul {
            x,
            projections: ps.iter().copied().zip(ys.iter().copied()).collect(),
        };
        let window = if check.norms { Some(40) } else { None };
        let (scale, softcap) = ((head_dim as f32).sqrt().recip(), window.map(|_| 20.0));
        let shape = AttentionShape { heads, kv_heads, head_dim, scale, softcap, window };
        let activation = if check.norms { Activation::GeluTanh } else { Activation::Silu };
        step.push(Op::Embed { table: *embedding, scale: 2.0, out: x });
        step.push(norm(x, None, *on_hidden, 1, normed));
        step.push(matmul(normed, qkv, &[q, k, v]));
        if check.norms {
            step.push(norm(q, None, *on_head, heads, q));
            step.push(norm(k, None, *on_head, kv_heads, k));
        }
        for x in [q, k] {
            step.push(Op::Rope { x, head_dim, table: *rope });
        }
        step.push(Op::KvAppend { layer: 0, k, v });
        step.push(Op::PagedAttention { layer: 0, shape, q, out: mixed });
        step.push(matmul(mixed, o, &[delta]));
        if check.norms {
            step.push(norm(delta, None, *on_hidden, 1, delta));
        }
        step.push(norm(x, Some(delta), *on_hidden, 1, normed));
        step.push(matmul(normed, gate_up, &[gate, up]));
        step.push(Op::SwiGlu { activation, gate, up, out: gate });
        step.push(matmul(gate, down, &[delta]));
        step.push(norm(x, Some(delta), *on_hidden, 1, last));
        if check.norms {
            step.push(Op::Softcap { x: last, cap: 3.0 });
        }
        // The head: few rows, which are a prompt's too.
        let scores = step.tensor(RowSet::Outputs, 64);
        step.push(matmul(last, head, &[scores]));
        step.probe(scores);
        // A token apart from the layer: of logits whose largest stands out.
        let logits = step.tensor(RowSet::Outputs, hidden);
        let outputs = step.row_count(RowSet::Outputs);
        let hump = |i: usize| -((i % hidden as usize) as f32 - 99.0).abs();
        let data: Vec<f32> = (0..outputs * hidden as usize).map(hump).collect();
        step.push(Op::Load { out: logits, data: Arc::from(data) });
        step.push(Op::Sample { logits });
        step.probe(last);
        Ok(step)
    }
}
