//! Cases of `paged_attention`, run on any backend over pages written through the trait.

use interleaf_contract::{
    AttentionShape, Backend, BackendError, Batch, CHUNK_TOKENS, Op, PageData, PageElement, PageHalf,
    PageTable, PoolGeometry, Row, RowKind, RowSet, Sequence, Step,
};
use interleaf_kernels_ref::page_codec;

use crate::data::{Random, aligned};

/// One sequence: how many tokens are in its pages, and which of the last of them ask.
#[derive(Debug, Clone, Copy)]
pub struct SequenceSpec {
    pub tokens: usize,
    /// Rows: the last `queries` positions.
    pub queries: usize,
    pub kind: RowKind,
}

#[derive(Debug, Clone)]
pub struct AttentionCase {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub element: PageElement,
    pub sequences: Vec<SequenceSpec>,
    pub seed: u64,
}

/// The numbers of one sequence: K and V are `[kv_head][token][dim]`, q is queries × heads × dim.
#[derive(Debug, Clone)]
pub struct SequenceData {
    pub spec: SequenceSpec,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub q: Vec<f32>,
}

impl AttentionCase {
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    pub fn data(&self) -> Vec<SequenceData> {
        let mut random = Random::new(self.seed);
        let round = |v: Vec<f32>| match self.element {
            PageElement::F16 => v.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect(),
            PageElement::F32 => v,
        };
        let mut sequence = |&spec: &SequenceSpec| {
            let elements = self.kv_heads * spec.tokens * self.head_dim;
            // Scores of a few units, so that the softmax is neither flat nor a single spike.
            let q = random.values(spec.queries * self.heads * self.head_dim);
            SequenceData {
                spec,
                k: round(random.values(elements)),
                v: round(random.values(elements)),
                q: q.into_iter().map(|v| 6.0 * v).collect(),
            }
        };
        self.sequences.iter().map(&mut sequence).collect()
    }

    pub fn shape(&self) -> AttentionShape {
        let n = |n: usize| u32::try_from(n).expect("a small shape");
        let (heads, kv_heads, head_dim) = (n(self.heads), n(self.kv_heads), n(self.head_dim));
        let (scale, softcap, window) = (self.scale(), None, None);
        AttentionShape { heads, kv_heads, head_dim, scale, softcap, window }
    }

    fn geometry(&self, slots: usize) -> PoolGeometry {
        let (kv_heads, head_dim, element) = (self.kv_heads, self.head_dim, self.element);
        // A second layer, so that a kernel that forgets the stripe reads something else.
        PoolGeometry { layers: 2, kv_heads, head_dim, slots, element }
    }

    /// The batch of some sequences and their pages, in slots that are out of order.
    pub fn batch(&self, data: &[SequenceData]) -> (Batch, Vec<PageData>, PoolGeometry) {
        let chunks: usize = data.iter().map(|s| s.spec.tokens.div_ceil(CHUNK_TOKENS)).sum();
        let geometry = self.geometry(chunks + 3);
        let mut batch = Batch::default();
        let mut pages = Vec::new();
        let mut next = chunks + 3;
        for (index, sequence) in data.iter().enumerate() {
            let spec = sequence.spec;
            let slots: Vec<u32> = (0..spec.tokens.div_ceil(CHUNK_TOKENS))
                .map(|_| {
                    next -= 1;
                    u32::try_from(next).expect("a small pool")
                })
                .collect();
            for (chunk, &slot) in slots.iter().enumerate() {
                for (half, values) in [(PageHalf::K, &sequence.k), (PageHalf::V, &sequence.v)] {
                    let address = geometry.page(1, slot, half);
                    pages.push(PageData { address, bytes: self.page(&geometry, spec, chunk, values) });
                }
            }
            for i in 0..spec.queries {
                let position = u32::try_from(spec.tokens - spec.queries + i).expect("a short sequence");
                let sequence = u32::try_from(index).expect("a small batch");
                batch.rows.push(Row { token: 0, position, sequence, adapter: -1, kind: spec.kind });
            }
            batch.sequences.push(Sequence { pages: PageTable::uniform(&geometry, slots) });
        }
        (batch, pages, geometry)
    }

    fn page(
        &self,
        g: &PoolGeometry,
        spec: SequenceSpec,
        chunk: usize,
        values: &[f32],
    ) -> interleaf_contract::Bytes {
        let mut words = vec![0u32; g.page_bytes() / 4];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let first = chunk * CHUNK_TOKENS;
        let tokens = CHUNK_TOKENS.min(spec.tokens - first);
        for head in 0..self.kv_heads {
            let start = (head * spec.tokens + first) * self.head_dim;
            let rows = &values[start..start + tokens * self.head_dim];
            page_codec::encode(self.element, bytes, g.element_offset(head, 0), rows);
        }
        aligned(bytes)
    }

    /// Runs the case over some sequences; rows × heads × dim.
    ///
    /// # Errors
    /// If the backend refuses it.
    pub fn run(&self, data: &[SequenceData], backend: &mut dyn Backend) -> Result<Vec<f32>, BackendError> {
        self.run_shaped(self.shape(), data, backend)
    }

    /// The same with a window or a softcap in the shape.
    ///
    /// # Errors
    /// If the backend refuses it.
    pub fn run_shaped(
        &self,
        shape: AttentionShape,
        data: &[SequenceData],
        backend: &mut dyn Backend,
    ) -> Result<Vec<f32>, BackendError> {
        let (batch, pages, geometry) = self.batch(data);
        backend.create_pool(geometry)?;
        backend.write_pages(&pages)?;
        let mut step = Step::new(batch)?;
        let cols = u32::try_from(self.heads * self.head_dim).expect("a small shape");
        let (q, out) = (step.tensor(RowSet::All, cols), step.tensor(RowSet::All, cols));
        let queries: Vec<f32> = data.iter().flat_map(|s| s.q.iter().copied()).collect();
        step.push(Op::Load { out: q, data: queries.into() });
        step.push(Op::PagedAttention { layer: 1, shape, q, out });
        step.probe(out);
        let ticket = backend.submit(step)?;
        Ok(backend.wait(ticket)?.probes.remove(0))
    }
}

/// Softmax attention of one sequence as anyone would write it in f32: what a kernel's error is measured
/// in.
pub fn naive(case: &AttentionCase, s: &SequenceData) -> Vec<f32> {
    naive_shaped(case, case.shape(), s)
}

/// The same with a window or a softcap in the shape.
pub fn naive_shaped(case: &AttentionCase, shape: AttentionShape, s: &SequenceData) -> Vec<f32> {
    let (dim, group) = (case.head_dim, case.heads / case.kv_heads);
    let mut out = Vec::new();
    for i in 0..s.spec.queries {
        let visible = s.spec.tokens - s.spec.queries + i + 1;
        let first = visible.saturating_sub(shape.window.map_or(visible, |w| w as usize));
        for head in 0..case.heads {
            let q = &s.q[(i * case.heads + head) * dim..][..dim];
            let start = head / group * s.spec.tokens * dim;
            let seen = start + first * dim..start + visible * dim;
            let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>() * shape.scale;
            let cap = |score: f32| shape.softcap.map_or(score, |cap| cap * (score / cap).tanh());
            let scores: Vec<f32> = s.k[seen.clone()].chunks_exact(dim).map(|k| cap(dot(k))).collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f32 = weights.iter().sum();
            let mut mixed = vec![0.0f32; dim];
            for (w, v) in weights.iter().zip(s.v[seen].chunks_exact(dim)) {
                mixed.iter_mut().zip(v).for_each(|(m, v)| *m += w / sum * v);
            }
            out.extend(mixed);
        }
    }
    out
}
