//! A token from logits. Probabilities are computed in f64 in the reference's order, so that draws agree
//! with it token by token; only the candidates that can be drawn are sorted.

use interleaf_contract::Sampler;

/// Chooses a token; the order of the rules is stated at [`Sampler`].
pub fn sample(logits: &[f32], sampler: &Sampler) -> Option<u32> {
    let mut logits = std::borrow::Cow::Borrowed(logits);
    for &(token, bias) in &sampler.bias {
        logits.to_mut()[token as usize] += bias;
    }
    if sampler.repeat_penalty != 1.0 {
        penalise(logits.to_mut(), sampler);
    }
    if sampler.temperature == 0.0 {
        return argmax(&logits);
    }
    let candidates = candidates(&logits, sampler);
    let total: f64 = candidates.iter().map(|(_, p)| p).sum();
    let target = uniform(sampler) * total;
    let mut reached = 0.0;
    let drawn = candidates.iter().find(|(_, p)| {
        reached += p;
        target < reached
    });
    drawn.or(candidates.last()).map(|(token, _)| *token)
}

fn argmax(logits: &[f32]) -> Option<u32> {
    let choices = logits.iter().enumerate().filter(|(_, logit)| can_be_chosen(**logit));
    let largest = choices.fold(None, |best: Option<(usize, f32)>, (token, &logit)| match best {
        Some((_, largest)) if logit <= largest => best,
        _ => Some((token, logit)),
    });
    largest.map(|(token, _)| token as u32)
}

/// What is neither NaN nor banned. A logit that has grown to +∞ counts as the largest f32.
fn can_be_chosen(logit: f32) -> bool {
    logit > f32::NEG_INFINITY
}

fn penalise(logits: &mut [f32], sampler: &Sampler) {
    let mut history = sampler.history.clone();
    history.sort_unstable();
    history.dedup();
    for token in history {
        let logit = &mut logits[token as usize];
        *logit = if *logit > 0.0 { *logit / sampler.repeat_penalty } else { *logit * sampler.repeat_penalty };
    }
}

fn candidates(logits: &[f32], sampler: &Sampler) -> Vec<(u32, f64)> {
    let mut order: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .filter(|(_, l)| can_be_chosen(**l))
        .map(|(t, &l)| (t as u32, l.min(f32::MAX)))
        .collect();
    let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let k = sampler.top_k as usize;
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k, descending);
        order.truncate(k);
    }
    order.sort_unstable_by(descending);
    let Some(&(_, largest)) = order.first() else { return Vec::new() };
    let temperature = f64::from(sampler.temperature);
    let mut kept: Vec<(u32, f64)> =
        order.iter().map(|&(t, l)| (t, (f64::from(l - largest) / temperature).exp())).collect();

    let total: f64 = kept.iter().map(|(_, p)| p).sum();
    let mut reached = 0.0;
    let nucleus = kept.iter().position(|(_, p)| {
        reached += p;
        reached >= f64::from(sampler.top_p) * total
    });
    kept.truncate(nucleus.map_or(kept.len(), |last| last + 1));
    // The most likely token has weight 1, so min-p compares with the weights themselves.
    kept.retain(|(_, p)| *p >= f64::from(sampler.min_p));
    kept
}

/// A fraction in [0, 1) of 24 bits from PCG4D (Jarzynski and Olano, JCGT 9(3), 2020).
fn uniform(sampler: &Sampler) -> f64 {
    let seed = sampler.seed;
    let mut v = [seed as u32, (seed >> 32) as u32, sampler.sequence, sampler.step]
        .map(|x| x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    for shift in [16, 0] {
        v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[3]));
        v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
        v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
        v[3] = v[3].wrapping_add(v[1].wrapping_mul(v[2]));
        if shift > 0 {
            v = v.map(|x| x ^ (x >> shift));
        }
    }
    f64::from(v[0] >> 8) / f64::from(1u32 << 24)
}
