//! Golden vectors of the reference backend itself: what quantised weights are compared with. Only the
//! golden set's tokens are kept.

use interleaf_runtime::{Engine, Feed, RowKind, Want};

use super::compare::{argmax, feed_prompts, nll};
use super::golden::{Golden, LayerKv, Prompt, Target, Window};
use crate::{CliError, load};

/// Recomputes every vector of the golden set on `reference`.
pub fn replace(golden: &mut Golden, reference: &mut Engine) -> Result<(), CliError> {
    let prompts: usize = golden.targets.iter().map(|t| t.prompts.len() + t.windows.len()).sum();
    let bar = load::bar(prompts, "reference");
    for target in &mut golden.targets {
        let adapter = target.adapter().map(str::to_owned);
        let Target { prompts, windows, .. } = target;
        for prompt in prompts {
            replace_prompt(prompt, adapter.as_deref(), reference)?;
            bar.inc(1);
        }
        for window in windows {
            replace_window(window, adapter.as_deref(), reference)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn replace_prompt(
    prompt: &mut Prompt,
    adapter: Option<&str>,
    reference: &mut Engine,
) -> Result<(), CliError> {
    reference.reserve_kv(1, prompt.ids.len() + prompt.greedy.len())?;
    let sequence = reference.open_sequence(adapter, &prompt.ids)?;
    let best = prompt.best;
    let (mut top_ids, mut top_logits, mut scored, mut logits) = (vec![], vec![], vec![], vec![]);
    let ids = prompt.ids.clone();
    feed_prompts(reference, &[sequence], &[&ids], &mut |_, position, row| {
        push_top(row, best, &mut top_ids, &mut top_logits);
        match ids.get(position + 1) {
            Some(&next) => scored.push(nll(row, next) as f32),
            None => logits = row.to_vec(),
        }
    })?;
    for layer in &mut prompt.kv {
        let (k, v) = reference.read_kv(sequence, layer.layer)?;
        *layer = LayerKv { layer: layer.layer, k, v };
    }
    prompt.last_logits = logits.clone();
    (prompt.top_ids, prompt.top_logits) = (top_ids, top_logits);
    prompt.token_nll = Some(scored);

    let steps = prompt.greedy.len();
    (prompt.greedy, prompt.margins) = (Vec::new(), Vec::new());
    for step in 0..steps {
        push_top(&logits, best, &mut prompt.greedy_top_ids, &mut prompt.greedy_top_logits);
        let token = argmax(&logits);
        let others = logits.iter().enumerate().filter(|(id, _)| *id != token as usize);
        let runner_up = others.map(|(_, &logit)| logit).fold(f32::NEG_INFINITY, f32::max);
        prompt.greedy.push(token);
        prompt.margins.push(logits[token as usize] - runner_up);
        if step + 1 < steps {
            let (tokens, kind) = (&[token], RowKind::Generated);
            let fed = reference.feed(&[Feed { sequence, tokens, kind, want: Want::Logits }])?;
            logits = fed.into_iter().next().map(|f| f.logits).unwrap_or_default();
        }
    }
    Ok(reference.close_sequence(sequence)?)
}

/// Appends the `best` largest logits and their tokens, largest first.
fn push_top(logits: &[f32], best: usize, ids: &mut Vec<u32>, values: &mut Vec<f32>) {
    let mut order: Vec<u32> = (0..u32::try_from(logits.len()).unwrap_or(u32::MAX)).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    order.truncate(best);
    values.extend(order.iter().map(|&id| logits[id as usize]));
    ids.extend(order);
}

fn replace_window(
    window: &mut Window,
    adapter: Option<&str>,
    reference: &mut Engine,
) -> Result<(), CliError> {
    reference.reserve_kv(1, window.ids.len())?;
    let sequence = reference.open_sequence(adapter, &window.ids)?;
    let inputs = &window.ids[..window.ids.len() - 1];
    let mut scored = Vec::with_capacity(inputs.len());
    feed_prompts(reference, &[sequence], &[inputs], &mut |_, position, logits| {
        scored.push(nll(logits, window.ids[position + 1]) as f32);
    })?;
    reference.close_sequence(sequence)?;
    window.nll = scored;
    Ok(())
}
