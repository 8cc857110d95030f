//! `attention_mass` of the reference against the attention matrix written out.

use approx::assert_relative_eq;
use interleaf_contract::host::{HostBackend, HostKernels, Pool, Resident};
use interleaf_contract::{
    Backend, BackendError, BackendInfo, MassSample, Matrix, Numerics, Op, PageElement, RowKind, RowSet, Step,
    StepOutput,
};
use interleaf_kernels_ref::attention_mass::{Attended, ColumnMass, attention_mass, chunk_density};
use interleaf_kernels_ref::paged_attention::paged_attention;
use interleaf_tests::attention::{AttentionCase, SequenceSpec};

/// Host kernels that measure mass where attention would run.
struct Measure<'a>(&'a AttentionCase, std::sync::Arc<std::sync::Mutex<Vec<ColumnMass>>>);

impl HostKernels for Measure<'_> {
    type Matrix = Matrix;

    fn weights(&self, matrix: Matrix) -> Result<Matrix, BackendError> {
        Ok(matrix)
    }

    fn factors(&self, sites: Vec<[Matrix; 2]>) -> Result<Vec<[Matrix; 2]>, BackendError> {
        Ok(sites)
    }

    fn info(&self) -> BackendInfo {
        let (device, numerics) = (String::new(), Numerics::ActF32);
        BackendInfo { name: "test", device, tier: "test", numerics, threads: 1 }
    }

    fn run(
        &mut self,
        step: &Step,
        resident: &Resident<Matrix>,
        pool: &mut Pool,
    ) -> Result<StepOutput, BackendError> {
        let Some(Op::Load { data: q, .. }) = step.ops().first() else { return Ok(StepOutput::default()) };
        let (batch, shape) = (step.batch(), self.0.shape());
        let mut out = vec![0.0; q.len()];
        let log_sums = paged_attention(batch, 1, shape, q, (pool, resident), &mut out)?;
        let attended = Attended { layer: 1, shape, q, log_sums: &log_sums };
        let every_head = MassSample { layers: [1].into(), every: 1 };
        for sequence in 0..batch.sequences.len() {
            let mass = attention_mass(batch, sequence, &attended, &every_head, (pool, resident))?;
            self.1.lock().expect("no other thread").push(mass);
        }
        Ok(StepOutput::default())
    }

    fn scratch_bytes(&self) -> u64 {
        0
    }
}

#[test]
fn column_means_equal_the_explicit_matrix() {
    let spec = |tokens, queries| SequenceSpec { tokens, queries, kind: RowKind::Prompt };
    let case = AttentionCase {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        element: PageElement::F32,
        sequences: vec![spec(40, 40), spec(37, 5)],
        seed: 1,
    };
    let data = case.data();
    let (batch, pages, geometry) = case.batch(&data);
    let found = std::sync::Arc::default();
    let case_ref: &'static AttentionCase = Box::leak(Box::new(case.clone()));
    let mut backend = HostBackend::new(Measure(case_ref, std::sync::Arc::clone(&found)));
    backend.create_pool(geometry).expect("a small pool");
    backend.write_pages(&pages).expect("pages of the pool's size");
    let mut step = Step::new(batch).expect("a well-formed batch");
    let q = step.tensor(RowSet::All, 64);
    let queries: Vec<f32> = data.iter().flat_map(|s| s.q.iter().copied()).collect();
    step.push(Op::Load { out: q, data: queries.into() });
    backend.submit(step).expect("the step runs");

    let found = found.lock().expect("no other thread");
    for (sequence, mass) in data.iter().zip(found.iter()) {
        let (tokens, queries) = (sequence.spec.tokens, sequence.spec.queries);
        let mut sums = vec![0.0f64; tokens];
        for i in 0..queries {
            let visible = tokens - queries + i + 1;
            for head in 0..case.heads {
                let q = &sequence.q[(i * case.heads + head) * 16..][..16];
                let keys = &sequence.k[head / 2 * tokens * 16..][..visible * 16];
                let score = |k: &[f32]| -> f64 {
                    let dot: f64 = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    (dot * f64::from(case.scale())).exp()
                };
                let weights: Vec<f64> = keys.chunks_exact(16).map(score).collect();
                let total: f64 = weights.iter().sum();
                sums.iter_mut().zip(weights).for_each(|(s, w)| *s += w / total / case.heads as f64);
            }
        }
        let seen: Vec<u32> =
            (0..tokens).map(|c| u32::try_from(queries.min(tokens - c)).expect("few rows")).collect();
        assert_eq!(mass.rows, seen);
        for (found, expected) in mass.sum.iter().zip(&sums) {
            assert_relative_eq!(*found, *expected, max_relative = 1e-9);
        }
        // Every row hands out a mass of one.
        assert_relative_eq!(mass.sum.iter().sum::<f64>(), queries as f64, max_relative = 1e-9);
        let density = chunk_density(mass);
        assert_eq!(density.len(), tokens.div_ceil(16));
        for (chunk, density) in density.iter().enumerate() {
            let columns = chunk * 16..tokens.min(chunk * 16 + 16);
            let mean =
                columns.clone().map(|c| sums[c] / f64::from(seen[c])).sum::<f64>() / columns.len() as f64;
            assert_relative_eq!(*density, mean, max_relative = 1e-9);
        }
    }
}
