//! A token from logits: greedy, or a draw that depends on (seed, sequence, step) alone.

use interleaf_contract::Sampler;

/// Chooses a token; the order of the rules is stated at [`Sampler`].
///
/// Logits that are NaN or −∞ are never chosen; if all are, there is no token.
#[must_use]
pub fn sample(logits: &[f32], sampler: &Sampler) -> Option<u32> {
    let logits = penalise(bias(logits, sampler), sampler);
    if sampler.temperature == 0.0 {
        return argmax(&logits);
    }
    let candidates = candidates(&logits, sampler);
    let total: f64 = candidates.iter().map(|(_, p)| p).sum();
    let target = uniform(sampler) * total;
    let mut reached = 0.0;
    for (token, p) in &candidates {
        reached += p;
        if target < reached {
            return Some(*token);
        }
    }
    candidates.last().map(|(token, _)| *token)
}

/// The largest logit, the lowest id among equals.
#[must_use]
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &logit) in logits.iter().enumerate().filter(|(_, logit)| can_be_chosen(**logit)) {
        if best.is_none_or(|(_, largest)| logit > largest) {
            best = Some((token as u32, logit));
        }
    }
    best.map(|(token, _)| token)
}

/// What is neither NaN nor banned. A logit that has grown to +∞ counts as the largest f32.
fn can_be_chosen(logit: f32) -> bool {
    logit > f32::NEG_INFINITY
}

fn bias(logits: &[f32], sampler: &Sampler) -> Vec<f32> {
    let mut logits = logits.to_vec();
    for &(token, bias) in &sampler.bias {
        logits[token as usize] += bias;
    }
    logits
}

fn penalise(mut logits: Vec<f32>, sampler: &Sampler) -> Vec<f32> {
    let mut history = sampler.history.clone();
    history.sort_unstable();
    history.dedup();
    for token in history {
        let logit = &mut logits[token as usize];
        *logit = if *logit > 0.0 { *logit / sampler.repeat_penalty } else { *logit * sampler.repeat_penalty };
    }
    logits
}

/// Tokens that may be drawn with their unnormalised probabilities, most likely first.
fn candidates(logits: &[f32], sampler: &Sampler) -> Vec<(u32, f64)> {
    let mut order: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .filter(|(_, l)| can_be_chosen(**l))
        .map(|(t, &l)| (t as u32, l.min(f32::MAX)))
        .collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let Some(&(_, largest)) = order.first() else { return Vec::new() };
    if sampler.top_k > 0 {
        order.truncate(sampler.top_k as usize);
    }
    let weight = |l: f32| (f64::from(l - largest) / f64::from(sampler.temperature)).exp();
    let mut kept: Vec<(u32, f64)> = order.iter().map(|&(t, l)| (t, weight(l))).collect();

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

/// A fraction in [0, 1) of 24 bits.
fn uniform(sampler: &Sampler) -> f64 {
    let seed = sampler.seed;
    let word = pcg4d([seed as u32, (seed >> 32) as u32, sampler.sequence, sampler.step])[0];
    f64::from(word >> 8) / f64::from(1u32 << 24)
}

/// PCG4D (Jarzynski and Olano, JCGT 9(3), 2020, listing 9): four words in, four well-mixed words out.
#[must_use]
pub fn pcg4d(v: [u32; 4]) -> [u32; 4] {
    let mut v = v.map(|x| x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    mix(&mut v);
    v = v.map(|x| x ^ (x >> 16));
    mix(&mut v);
    v
}

fn mix(v: &mut [u32; 4]) {
    v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[3]));
    v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
    v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
    v[3] = v[3].wrapping_add(v[1].wrapping_mul(v[2]));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32) -> Sampler {
        Sampler { temperature, seed: 7, ..Sampler::greedy() }
    }

    fn shares(logits: &[f32], sampler: &Sampler, draws: u32) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for step in 0..draws {
            counts[sample(logits, &Sampler { step, ..sampler.clone() }).unwrap() as usize] +=
                1.0 / f64::from(draws);
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals_and_skips_nan() {
        assert_eq!(sample(&[1.0, 3.0, 3.0], &Sampler::greedy()), Some(1));
        assert_eq!(sample(&[f32::NEG_INFINITY, -9.0], &Sampler::greedy()), Some(1));
        for sampler in [Sampler::greedy(), sampler(1.0)] {
            assert_eq!(sample(&[f32::NAN, -5.0], &sampler), Some(1));
            assert_eq!(sample(&[f32::NAN, f32::NEG_INFINITY], &sampler), None);
        }
    }

    /// Computed apart, in Python, from the paper's listing.
    #[test]
    fn the_generator_is_pcg4d() {
        assert_eq!(pcg4d([1, 2, 3, 4]), [908_250_390, 4_044_648_920, 3_775_961_919, 45_698_095]);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (share, logit) in shares(&logits, &sampler(1.0), 20_000).iter().zip(logits) {
            assert!((share - f64::from(logit).exp() / total).abs() < 0.015);
        }
    }

    #[test]
    fn filters_cut_the_tail_in_order() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let reachable = |s: &Sampler| shares(&logits, s, 4_000).iter().filter(|p| **p > 0.0).count();
        assert_eq!(reachable(&Sampler { top_k: 2, ..sampler(1.0) }), 2);
        // Probabilities are 0.644, 0.237, 0.087 and 0.032.
        assert_eq!(reachable(&Sampler { top_p: 0.6, ..sampler(1.0) }), 1);
        assert_eq!(reachable(&Sampler { top_p: 0.7, ..sampler(1.0) }), 2);
        assert_eq!(reachable(&Sampler { min_p: 0.1, ..sampler(1.0) }), 3);
    }

    #[test]
    fn the_penalty_counts_a_token_once() {
        let s = Sampler { repeat_penalty: 2.0, history: vec![1, 1, 0], ..Sampler::greedy() };
        assert_eq!(penalise(vec![-1.0, 3.0, 1.6], &s), [-2.0, 1.5, 1.6]);
        assert_eq!(sample(&[-1.0, 3.0, 1.6], &s), Some(2));
    }

    #[test]
    fn a_bias_adds_before_the_penalty_and_infinity_bans() {
        let biased = |bias: &[(u32, f32)]| Sampler { bias: bias.to_vec(), ..Sampler::greedy() };
        let logits = [1.0, 3.0, 2.0];
        assert_eq!(sample(&logits, &biased(&[(0, 1.0), (0, 1.5)])), Some(0));
        assert_eq!(sample(&logits, &biased(&[(1, f32::NEG_INFINITY)])), Some(2));
        let first = Sampler { repeat_penalty: 2.0, history: vec![2], ..biased(&[(2, 3.0)]) };
        assert_eq!(sample(&logits, &first), Some(1), "(2 + 3) / 2 is below 3");
        let drawn = Sampler { bias: vec![(0, f32::NEG_INFINITY)], ..sampler(5.0) };
        let shares = shares(&logits, &drawn, 2_000);
        assert!(shares[0] == 0.0 && shares[1] > shares[2] && shares[2] > 0.0);
        for temperature in [0.0, 1.0] {
            let huge = Sampler { temperature, ..biased(&[(2, 3e38), (2, 3e38)]) };
            assert_eq!(sample(&logits, &huge), Some(2), "a sum beyond f32 is still the largest");
        }
        let all: Vec<(u32, f32)> = (0..3).map(|t| (t, f32::NEG_INFINITY)).collect();
        assert_eq!(sample(&logits, &biased(&all)), None);
    }

    #[test]
    fn sequences_and_steps_draw_apart() {
        let logits = [0.0; 64];
        let draw = |sequence, step| sample(&logits, &Sampler { sequence, step, ..sampler(1.0) }).unwrap();
        let by_step: Vec<u32> = (0..32).map(|s| draw(0, s)).collect();
        let by_sequence: Vec<u32> = (0..32).map(|s| draw(s, 0)).collect();
        assert_ne!(by_step, by_sequence);
        assert_eq!(by_step, (0..32).map(|s| draw(0, s)).collect::<Vec<_>>());
    }
}
