//! Tokens chosen from given logits, on any backend.

use std::sync::Arc;

use interleaf_contract::{Backend, Batch, Op, Output, RowKind, RowSet, Sampler, Step};

use crate::lora::{one_page, rows};

/// The token of each row, of which there are as many as samplers, all in one step.
pub fn choose(backend: &mut dyn Backend, logits: &Arc<[f32]>, samplers: &[Sampler]) -> Vec<Option<u32>> {
    let n = samplers.len();
    let output =
        |(row, sampler): (usize, &Sampler)| Output { row: row as u32, sampler: Some(sampler.clone()) };
    let batch = Batch {
        rows: rows(&vec![(RowKind::Generated, -1); n]),
        sequences: (0..n).map(|_| one_page()).collect(),
        adapters: Vec::new(),
        outputs: samplers.iter().enumerate().map(output).collect(),
    };
    let mut step = Step::new(batch).expect("a well-formed batch");
    let out = step.tensor(RowSet::Outputs, (logits.len() / n) as u32);
    step.push(Op::Load { out, data: Arc::clone(logits) });
    step.push(Op::Sample { logits: out });
    let ticket = backend.submit(step).expect("sampling runs");
    let tokens = backend.wait(ticket).expect("and ends").tokens;
    assert_eq!(tokens.iter().map(|t| t.output).collect::<Vec<_>>(), (0..n as u32).collect::<Vec<_>>());
    tokens.iter().map(|t| t.token).collect()
}
