//! What a router is worth, on prompts that nothing was fitted to: beside always taking one adapter, beside a bag of tokens, and
//! what preferring adapters that are resident costs and saves.

use std::time::{Duration, Instant};

use interleaf_model::RouterHead;
use interleaf_runtime::{Engine, Feed, RowKind, Want};

use super::classifier::{mean_loss, ranked, top};
use super::data::Prompts;
use super::features::States;
use super::fit::logit;
use super::train::{Trained, tokens, train_bags, truth};
use crate::CalibrateError;

/// The most likely labels that are counted as right, from 1 on.
pub const TOPS: usize = 3;

/// Rounds over the prompts in which times are taken.
const ROUNDS: usize = 3;

/// How often one way of choosing is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The way.
    pub way: &'static str,
    /// How often one of the `k` likeliest labels is right, by k from 1 to [`TOPS`].
    pub top: [f64; TOPS],
    /// Mean cross-entropy over prompts and labels, in nats.
    pub loss: f64,
}

/// A label, of the prompts that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRow {
    /// Its name.
    pub label: String,
    /// Prompts that belong to it.
    pub prompts: usize,
    /// By label, how many of them were given to that one.
    pub chosen: Vec<usize>,
}

/// What preferring residents comes to, with so many of the adapters resident: a mean over all sets of as many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// Resident adapters.
    pub residents: usize,
    /// Likeliest adapters of which the first resident one is taken.
    pub k: usize,
    /// How often the adapter that was taken is right.
    pub right: f64,
    /// How often it has to be loaded.
    pub loaded: f64,
}

/// Times of the same prompts, medians of rounds taken in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Tokens of all prompts.
    pub tokens: usize,
    /// Of them, those that a router looks at.
    pub scored: usize,
    /// The base's pass over all prompts, one after the other.
    pub prefill: Duration,
    /// Routing them.
    pub route: Duration,
    /// The base's pass over what of them was not scored, which goes on from the pages of what was.
    pub rest: Duration,
    /// The head alone, pooled states given.
    pub head: Duration,
}

/// What was measured of a router.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// Prompts that were tested with.
    pub prompts: usize,
    /// Best single, bag of tokens, the router, and the oracle, who always knows.
    pub rows: [Row; 4],
    /// The adapter that is always taken, by best single.
    pub single: String,
    /// How the bag of tokens came about.
    pub bag: Trained,
    /// By label.
    pub labels: Vec<LabelRow>,
    /// By residents and k.
    pub preferences: Vec<Preference>,
    /// What routing takes.
    pub times: Times,
}

/// Measures a head that is the engine's router, on prompts to test with; the baselines are made from those to train on. The engine
/// must have room for two sequences of the longest prompt, and keep what it computes.
///
/// # Errors
/// If there are no prompts to test with, too few to train on, a label of theirs is not one of the head's, or the engine fails.
pub fn evaluate_router(
    engine: &mut Engine,
    head: &RouterHead,
    prompts: &Prompts,
) -> Result<Evaluated, CalibrateError> {
    let refused = |reason| CalibrateError::Untestable { data: prompts.data.clone(), reason };
    if prompts.test.is_empty() {
        return Err(refused("no line has the split \"test\"".into()));
    }
    let names: Vec<&str> = head.labels.iter().map(|label| label.name.as_str()).collect();
    let place = |label: &String| {
        let unknown = || refused(format!("{label} is no label of the router's: {}", names.join(", ")));
        names.iter().position(|name| name == label).ok_or_else(unknown)
    };
    let places = prompts.labels.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let by_head = |truth: Vec<Vec<usize>>| -> Vec<Vec<usize>> {
        truth.into_iter().map(|labels| labels.into_iter().map(|label| places[label]).collect()).collect()
    };
    let (train_truth, truth) = (by_head(truth(&prompts.train)), by_head(truth(&prompts.test)));
    let train = tokens(engine, &prompts.train, head.origin.is_chat)?;
    let test = tokens(engine, &prompts.test, head.origin.is_chat)?;

    let states = States::run(engine, &test, head.looks.tokens, &mut |_| ())?;
    let features = states.seen(&head.looks);
    let score = |row: &Vec<f32>| head.score(row).into_iter().map(|p| logit(f64::from(p))).collect();
    let own: Vec<Vec<f64>> = features.iter().map(score).collect();
    let (bag, rows) = train_bags(&train, &test, &train_truth, names.len())?;
    let tempered = |row: &Vec<f32>| {
        bag.classifier.logits(row).into_iter().map(|logit| logit / bag.temperature).collect()
    };
    let of_bag: Vec<Vec<f64>> = rows.iter().map(tempered).collect();
    let shares = shares(&train_truth, names.len());
    let single = vec![shares; test.len()];
    let row = |way, scores: &[Vec<f64>]| Row {
        way,
        top: std::array::from_fn(|k| top(scores, &truth, k + 1)),
        loss: mean_loss(scores, &truth, 1.0),
    };
    let answerable = truth.iter().filter(|labels| !labels.is_empty()).count() as f64 / truth.len() as f64;
    let oracle = Row { way: "oracle", top: [answerable; TOPS], loss: 0.0 };
    Ok(Evaluated {
        prompts: test.len(),
        rows: [
            row("best single", &single),
            row("bag of tokens", &of_bag),
            row("hidden states", &own),
            oracle,
        ],
        single: ranked(&single[0]).first().map_or_else(String::new, |label| names[*label].into()),
        labels: label_rows(&names, &own, &truth),
        preferences: preferences(&own, &truth, names.len()),
        times: times(engine, head, &test, &features)?,
        bag,
    })
}

/// By label, the logit of the share of prompts that belong to it, one more of either kind counted.
fn shares(truth: &[Vec<usize>], labels: usize) -> Vec<f64> {
    let of = |label: usize| truth.iter().filter(|labels| labels.contains(&label)).count() as f64;
    (0..labels).map(|label| logit((of(label) + 1.0) / (truth.len() as f64 + 2.0))).collect()
}

fn label_rows(names: &[&str], scores: &[Vec<f64>], truth: &[Vec<usize>]) -> Vec<LabelRow> {
    let first: Vec<usize> =
        scores.iter().map(|scores| ranked(scores).first().copied().unwrap_or(0)).collect();
    let of = |(label, name): (usize, &&str)| {
        let own = || truth.iter().zip(&first).filter(move |(labels, _)| labels.contains(&label));
        let chosen = (0..names.len()).map(|other| own().filter(|(_, first)| **first == other).count());
        LabelRow { label: (*name).into(), prompts: own().count(), chosen: chosen.collect() }
    };
    names.iter().enumerate().map(of).collect()
}

/// The trade-off, by how many are resident and of how many likeliest ones a resident one is taken. All sets of a size are as
/// likely: the adapter at place i of a prompt's ranking is taken where it is the first resident one of the k, or i is the first
/// place and none of the k is. How often that is follows from the number of sets, with no set looked at.
fn preferences(scores: &[Vec<f64>], truth: &[Vec<usize>], labels: usize) -> Vec<Preference> {
    let rankings: Vec<Vec<usize>> = scores.iter().map(|scores| ranked(scores)).collect();
    // How often the label at each place is right.
    let right: Vec<f64> = (0..labels)
        .map(|place| {
            let hits = rankings.iter().zip(truth).filter(|(ranking, truth)| truth.contains(&ranking[place]));
            hits.count() as f64 / rankings.len().max(1) as f64
        })
        .collect();
    let preference = |residents: usize, k: usize| {
        // None of the likeliest so many is resident, by how many.
        let mut none = vec![1.0];
        for place in 0..labels {
            let (absent, left) = (labels.saturating_sub(residents + place) as f64, (labels - place) as f64);
            none.push(none[place] * absent / left);
        }
        let taken = |place: usize| none[place] - none[place + 1];
        let resident: f64 = (0..k).map(|place| taken(place) * right[place]).sum();
        Preference { residents, k, right: resident + none[k] * right[0], loaded: none[k] }
    };
    (1..=labels)
        .flat_map(|residents| (1..=labels).map(move |k| (residents, k)))
        .map(|(r, k)| preference(r, k))
        .collect()
}

/// Times routing beside what it adds to: the base's pass over the same prompts, each from nothing, in turn.
fn times(
    engine: &mut Engine,
    head: &RouterHead,
    prompts: &[Vec<u32>],
    features: &[Vec<f32>],
) -> Result<Times, CalibrateError> {
    let [mut prefills, mut routes, mut rests, mut heads] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for prompt in prompts {
            let sequence = engine.open_sequence(None, prompt)?;
            let feed = Feed { sequence, tokens: prompt, kind: RowKind::Prompt, want: Want::Nothing };
            engine.feed(&[feed])?;
            engine.close_sequence(sequence)?;
        }
        prefills.push(start.elapsed());
        // It forgets what it has scored.
        engine.use_router(head.clone())?;
        let start = Instant::now();
        let mut rest = Duration::ZERO;
        for prompt in prompts {
            engine.route(prompt, 1)?;
            let routed = Instant::now();
            let (sequence, reused) = engine.resume_sequence(None, prompt, 0.0)?;
            let tokens = &prompt[reused..];
            engine.feed(&[Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Nothing }])?;
            engine.close_sequence(sequence)?;
            rest += routed.elapsed();
        }
        routes.push(start.elapsed() - rest);
        rests.push(rest);
        let start = Instant::now();
        features.iter().for_each(|row| drop(std::hint::black_box(head.score(row))));
        heads.push(start.elapsed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    Ok(Times {
        tokens: prompts.iter().map(Vec::len).sum(),
        scored: prompts.iter().map(|prompt| prompt.len().min(head.looks.tokens)).sum(),
        prefill: median(prefills),
        route: median(routes),
        rest: median(rests),
        head: median(heads),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule itself, over every set of residents.
    fn by_sets(scores: &[Vec<f64>], truth: &[Vec<usize>], residents: usize, k: usize) -> [f64; 2] {
        let labels = scores[0].len();
        let sets: Vec<u32> =
            (0..1 << labels).filter(|set: &u32| set.count_ones() == residents as u32).collect();
        let (mut right, mut loaded) = (0.0, 0.0);
        for set in &sets {
            for (scores, truth) in scores.iter().zip(truth) {
                let ranking = ranked(scores);
                let resident = ranking.iter().take(k).find(|label| set >> **label & 1 == 1);
                loaded += f64::from(resident.is_none());
                right += f64::from(truth.contains(resident.unwrap_or(&ranking[0])));
            }
        }
        let all = (sets.len() * scores.len()) as f64;
        [right / all, loaded / all]
    }

    #[test]
    fn preferences_are_the_mean_over_all_sets() {
        let scores: Vec<Vec<f64>> = (0..30)
            .map(|i| (0..5).map(|label| ((7 * i + 3 * label) as f64 * 0.61).sin()).collect())
            .collect();
        let truth: Vec<Vec<usize>> = (0..30).map(|i| if i % 7 == 0 { vec![] } else { vec![i % 5] }).collect();
        let found = preferences(&scores, &truth, 5);
        assert_eq!(found.len(), 25);
        for Preference { residents, k, right, loaded } in found {
            let expected = by_sets(&scores, &truth, residents, k);
            assert!((right - expected[0]).abs() < 1e-12 && (loaded - expected[1]).abs() < 1e-12);
        }
    }

    #[test]
    fn labels_say_what_their_prompts_were_taken_for() {
        let scores = [vec![1.0, 0.0], vec![0.0, 1.0], vec![0.0, 1.0]];
        let rows = label_rows(&["a", "b"], &scores, &[vec![0], vec![0], vec![1]]);
        assert_eq!((rows[0].prompts, &*rows[0].chosen), (2, &[1, 1][..]));
        assert_eq!((rows[1].prompts, &*rows[1].chosen), (1, &[0, 1][..]));
        let shares = shares(&[vec![0], vec![0], vec![1], vec![]], 2);
        assert!((shares[0] - 0.0).abs() < 1e-12 && shares[1] < 0.0);
    }
}
