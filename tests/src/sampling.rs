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
        outputs: samplers.iter().enumerate().map(output).collect(),
        ..Batch::default()
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

/// Whether a draw may choose a token if every sum of weights is off by a share of `error`: bounds of nucleus and least
/// probability, and the place of the draw, are moved by it either way.
pub fn is_next_to(logits: &[f32], sampler: &Sampler, token: u32, error: f64) -> bool {
    let mut logits = logits.to_vec();
    for &(token, bias) in &sampler.bias {
        logits[token as usize] += bias;
    }
    let mut history = sampler.history.clone();
    history.sort_unstable();
    history.dedup();
    for logit in history.into_iter().map(|token| token as usize) {
        let value = logits[logit];
        let by = sampler.repeat_penalty;
        logits[logit] = if value > 0.0 { value / by } else { value * by };
    }
    let numbered = logits.iter().zip(0_u32..).filter(|(l, _)| **l > f32::NEG_INFINITY);
    let mut order: Vec<(u32, f64)> = numbered.map(|(l, t)| (t, f64::from(l.min(f32::MAX)))).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let Some(&(_, largest)) = order.first() else { return false };
    if sampler.top_k > 0 {
        order.truncate(sampler.top_k as usize);
    }
    let weight = |l: f64| ((l - largest) / f64::from(sampler.temperature)).exp();
    let weights: Vec<(u32, f64)> = order.into_iter().map(|(t, l)| (t, weight(l))).collect();
    let total: f64 = weights.iter().map(|(_, w)| w).sum();
    let seed = [sampler.seed as u32, (sampler.seed >> 32) as u32, sampler.sequence, sampler.step];
    let draw = f64::from(interleaf_kernels_ref::sample::pcg4d(seed)[0] >> 8) / f64::from(1 << 24);
    [-error, error].into_iter().any(|off| {
        let mut kept = weights.clone();
        let mut reached = 0.0;
        let nucleus = kept.iter().position(|(_, w)| {
            reached += w;
            reached >= (f64::from(sampler.top_p) + off) * total
        });
        kept.truncate(nucleus.map_or(kept.len(), |last| last + 1));
        [-error, error].into_iter().any(|off| {
            let least = f64::from(sampler.min_p) * (1.0 + off);
            let mut kept = kept.clone();
            kept.retain(|(_, w)| *w >= least);
            let total: f64 = kept.iter().map(|(_, w)| w).sum();
            let mut before = 0.0;
            kept.iter().any(|(t, w)| {
                let (from, to) = (before - error * total, before + w + error * total);
                before += w;
                *t == token && (from..=to).contains(&(draw * total))
            })
        })
    })
}
