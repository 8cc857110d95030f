//! A layer of a model as one step, on any backend: the sequence of operations that backends may fuse. Ops can be kept
//! apart, so that what is fused can be compared with what is not.

use interleaf_contract::{
    Activation, Adapter, AttentionShape, Backend, BackendError, Batch, Dtype, LoraSite, Matrix, Op,
    PageElement, PageTable, PoolGeometry, Projection, ProjectionId, RopeTable, Row, RowKind, RowSet,
    Sequence, Step, Tensor,
};

use crate::data::{Random, matrix};

/// Sizes and parts of a layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerShape {
    pub dtype: Dtype,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mlp: usize,
    /// Whether queries and keys have a norm, and whether what is added to the residual has.
    pub head_norms: bool,
    pub residual_norms: bool,
    pub activation: Activation,
}

/// Rows of one sequence from position 0 on, under an adapter or none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rows {
    pub kind: RowKind,
    pub count: usize,
    pub adapter: i32,
}

/// The numbers of a layer and of the rows that go through it.
pub struct LayerData {
    shape: LayerShape,
    rows: Vec<Rows>,
    x: Vec<f32>,
    delta: Vec<f32>,
    /// Queries, keys and values; the output; gate and up; down.
    weights: [Vec<Matrix>; 4],
    norms: Vec<Vec<f32>>,
    head_norms: [Vec<f32>; 2],
    adapters: Vec<Vec<(Matrix, Matrix)>>,
}

impl LayerData {
    pub fn new(shape: LayerShape, ranks: &[(usize, Dtype)], rows: &[Rows], seed: u64) -> Self {
        let mut random = Random::new(seed);
        let LayerShape { dtype, hidden, heads, kv_heads, head_dim, mlp, .. } = shape;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let shapes: [&[(usize, usize)]; 4] = [
            &[(q, hidden), (kv, hidden), (kv, hidden)],
            &[(hidden, q)],
            &[(mlp, hidden), (mlp, hidden)],
            &[(hidden, mlp)],
        ];
        let weights =
            shapes.map(|group| group.iter().map(|&(n, k)| matrix("w", dtype, n, k, &mut random)).collect());
        let adapters = ranks
            .iter()
            .map(|&(rank, dtype)| {
                let mut site = |&(n, k): &(usize, usize)| {
                    (matrix("A", dtype, rank, k, &mut random), matrix("B", dtype, n, rank, &mut random))
                };
                shapes.iter().flat_map(|group| group.iter()).map(&mut site).collect()
            })
            .collect();
        // Small, so that products of random weights stay near 1 and no softmax saturates.
        let mut norm = |n: usize| random.values(n).iter().map(|v| 0.1 * v).collect::<Vec<f32>>();
        let norms = (0..4).map(|_| norm(hidden)).collect();
        let head_norms = [norm(head_dim), norm(head_dim)];
        let values = rows.iter().map(|r| r.count).sum::<usize>() * hidden;
        let (x, delta) = (random.values(values), random.values(values));
        Self { shape, rows: rows.to_vec(), x, delta, weights, norms, head_norms, adapters }
    }

    /// The same layer with one of its sequences alone.
    pub fn alone(self, sequence: usize) -> Self {
        let before: usize = self.rows[..sequence].iter().map(|r| r.count).sum();
        let hidden = self.shape.hidden;
        let range = before * hidden..(before + self.rows[sequence].count) * hidden;
        let (x, delta) = (self.x[range.clone()].to_vec(), self.delta[range].to_vec());
        Self { rows: vec![self.rows[sequence]], x, delta, ..self }
    }

    fn pool(&self) -> PoolGeometry {
        let LayerShape { kv_heads, head_dim, .. } = self.shape;
        let slots = self.rows.iter().map(|rows| rows.count.div_ceil(16)).sum();
        PoolGeometry { layers: 1, kv_heads, head_dim, slots, element: PageElement::F32 }
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        let mut slots = 0;
        for (sequence, rows) in (0_u32..).zip(&self.rows) {
            let &Rows { kind, count, adapter } = rows;
            let row = |position| Row { token: 0, position, sequence, adapter, kind };
            batch.rows.extend((0..count as u32).map(row));
            let chunks = (count as u32).div_ceil(16);
            batch.sequences.push(Sequence { pages: PageTable::uniform(&self.pool(), slots..slots + chunks) });
            slots += chunks;
        }
        batch
    }

    /// Runs the layer: the residual stream after attention, what attention made, and the results of the layer. `apart`
    /// keeps its operations from being fused.
    ///
    /// # Errors
    /// If the backend refuses it.
    pub fn run(&self, backend: &mut dyn Backend, apart: bool) -> Result<Vec<Vec<f32>>, BackendError> {
        let LayerShape { hidden, heads, kv_heads, head_dim, mlp, activation, .. } = self.shape;
        let mut projections: Vec<Vec<ProjectionId>> = Vec::new();
        for group in &self.weights {
            let mut ids = Vec::new();
            for matrix in backend.create_matrices(group.clone())? {
                ids.push(backend.create_projection(Projection { name: "p".into(), matrix, bias: None })?);
            }
            projections.push(ids);
        }
        let mut batch = self.batch();
        for sites in &self.adapters {
            let site = |(&projection, (a, b)): (&ProjectionId, &(Matrix, Matrix))| LoraSite {
                projection,
                scale: 0.05,
                a: a.clone(),
                b: b.clone(),
            };
            let sites = projections.iter().flatten().zip(sites).map(site).collect();
            batch.adapters.push(backend.create_adapter(Adapter { name: "a".into(), sites })?);
        }
        let adapters = batch.adapters.clone();
        backend.create_pool(self.pool())?;
        let mut vector = |values: &Vec<f32>| backend.create_vector("norm", values);
        let norms = self.norms.iter().map(&mut vector).collect::<Result<Vec<_>, _>>()?;
        let head_norms = self.head_norms.iter().map(&mut vector).collect::<Result<Vec<_>, _>>()?;
        let positions = self.rows.iter().map(|r| r.count).max().unwrap_or(0);
        let angles: Vec<f32> = (0..positions * head_dim / 2).map(|i| i as f32 * 0.37).collect();
        let rope = backend.create_rope(RopeTable {
            rotary_dim: head_dim,
            positions,
            cos: angles.iter().map(|a| a.cos()).collect(),
            sin: angles.iter().map(|a| a.sin()).collect(),
        })?;

        let mut step = Step::new(batch)?;
        let mut tensor = |cols: usize| step.tensor(RowSet::All, cols as u32);
        let [x, delta, normed, back, again, out] = [hidden; 6].map(&mut tensor);
        let [q, mixed] = [heads * head_dim; 2].map(&mut tensor);
        let [k, v] = [kv_heads * head_dim; 2].map(&mut tensor);
        let [gate, up] = [mlp; 2].map(&mut tensor);
        let norm = |x, add, weight, heads: usize, out| {
            let heads = heads as u32;
            Op::RmsNorm { x, add, weight, epsilon: 1e-5, heads, out }
        };
        let matmul = |x, group: usize, results: &[Tensor]| Op::LoraMatmul {
            x,
            projections: projections[group].iter().copied().zip(results.iter().copied()).collect(),
        };
        let mut ops = vec![
            Op::Load { out: x, data: self.x.clone().into() },
            Op::Load { out: delta, data: self.delta.clone().into() },
        ];
        if self.shape.residual_norms {
            ops.push(norm(delta, None, norms[0], 1, delta));
        }
        ops.push(norm(x, Some(delta), norms[1], 1, normed));
        ops.push(matmul(normed, 0, &[q, k, v]));
        if self.shape.head_norms {
            ops.push(norm(q, None, head_norms[0], heads, q));
            ops.push(norm(k, None, head_norms[1], kv_heads, k));
        }
        ops.extend([q, k].map(|x| Op::Rope { x, head_dim: head_dim as u32, table: rope }));
        ops.push(Op::KvAppend { layer: 0, k, v });
        let [heads, kv_heads, head_dim] = [heads, kv_heads, head_dim].map(|n| n as u32);
        let scale = (head_dim as f32).sqrt().recip();
        let shape = AttentionShape { heads, kv_heads, head_dim, scale, softcap: None, window: None };
        ops.push(Op::PagedAttention { layer: 0, shape, q, out: mixed });
        ops.push(matmul(mixed, 1, &[back]));
        if self.shape.residual_norms {
            ops.push(norm(back, None, norms[2], 1, back));
        }
        ops.push(norm(x, Some(back), norms[3], 1, again));
        ops.push(matmul(again, 2, &[gate, up]));
        ops.push(Op::SwiGlu { activation, gate, up, out: gate });
        ops.push(matmul(gate, 3, &[out]));
        for op in ops {
            step.push(op);
            if apart {
                step.probe(x);
            }
        }
        let asked = [x, mixed, out].map(|t| step.probe(t));
        let ticket = backend.submit(step)?;
        let mut probes = backend.wait(ticket)?.probes;
        for adapter in adapters {
            backend.drop_adapter(adapter)?;
        }
        Ok(asked.map(|id| std::mem::take(&mut probes[id.0 as usize])).into())
    }
}
