//! How long a device takes for what decoding and reading prompts mostly are: matrices of a small model.

use std::sync::Arc;
use std::time::Instant;

use interleaf_contract::{
    Backend, BackendError, Batch, Bytes, Dtype, Matrix, Op, PageElement, PageTable, PoolGeometry, Projection,
    ProjectionId, Row, RowKind, RowSet, Sequence, Step,
};

/// Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Times {
    /// Of a generated row through every matrix.
    pub generated: f64,
    /// Of prompt rows.
    pub prompt: f64,
}

/// Matrices, larger together than caches.
const MATRICES: usize = 12;
const SIDE: usize = 2048;
const PROMPT_ROWS: u32 = 32;

/// Times that each is taken; the shortest counts.
const TAKES: usize = 2;

/// Takes a device's times.
pub fn time(backend: &mut dyn Backend) -> Result<Times, BackendError> {
    let mut projections = Vec::new();
    let bytes = Bytes::from(vec![0x11; Dtype::Q8_0.row_bytes(SIDE).unwrap_or_default() * SIDE]);
    for _ in 0..MATRICES {
        let matrix = backend.create_matrix(Matrix::new("race", Dtype::Q8_0, SIDE, SIDE, bytes.clone())?)?;
        projections.push(backend.create_projection(Projection {
            name: "race".into(),
            matrix,
            bias: None,
        })?);
    }
    let generated = shortest(backend, &projections, RowKind::Generated, 1)?;
    let prompt = shortest(backend, &projections, RowKind::Prompt, PROMPT_ROWS)?;
    Ok(Times { generated, prompt })
}

/// Activations of either sign.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect()
}

fn shortest(
    backend: &mut dyn Backend,
    projections: &[ProjectionId],
    kind: RowKind,
    rows: u32,
) -> Result<f64, BackendError> {
    let mut best = f64::INFINITY;
    // The first one compiles and warms up.
    for take in 0..=TAKES {
        let mut batch = Batch::default();
        batch.rows.extend((0..rows).map(|position| Row {
            token: 0,
            position,
            sequence: 0,
            adapter: -1,
            kind,
        }));
        // Of pages that nothing reads.
        let (element, slots) = (PageElement::F16, rows.div_ceil(16));
        let pool = PoolGeometry { layers: 1, kv_heads: 1, head_dim: 1, slots: slots as usize, element };
        batch.sequences.push(Sequence { pages: PageTable::uniform(&pool, 0..slots) });
        let mut step = Step::new(batch)?;
        let [mut from, mut to] =
            [step.tensor(RowSet::All, SIDE as u32), step.tensor(RowSet::All, SIDE as u32)];
        step.push(Op::Load { out: from, data: Arc::from(values(rows as usize * SIDE)) });
        for projection in projections {
            step.push(Op::LoraMatmul { x: from, projections: vec![(*projection, to)] });
            std::mem::swap(&mut from, &mut to);
        }
        let start = Instant::now();
        let ticket = backend.submit(step)?;
        backend.wait(ticket)?;
        if take > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}
