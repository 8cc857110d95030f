//! The mixes of codecs that a call's budget is spent on: which codec for the keys and the values of each layer.
//!
//! First what an error costs is measured, for each layer's keys and values alone: the divergence of reading the base's there,
//! over the squared relative error that this is. Then mixes are made from few bytes to many, each step where it saves most
//! divergence for a byte, squared errors being taken to add up. They do so only roughly, since what is left of a difference
//! is no noise; hence each mix is measured too, and the most that the sum was exceeded by in a window makes it a bound.

use interleaf_contract::{PageCodec, PageElement, PageHalf};
use interleaf_model::{Ladder, MeasuredCodec, Rung};
use interleaf_runtime::Engine;

use crate::measure::{Seen, distance, each_way};
use crate::prefix::{Prefix, Stored};
use crate::spread::{self, deviations, mean};
use crate::{CalibrateError, Codec, Parts, Subject, Windows};

/// Of two rungs that follow each other, the divergence that is expected of the second, as a share of the first's, at most.
const STEP: f64 = 0.7;

/// No rung follows one of which less is expected, in nats.
const LEAST_DIVERGENCE: f64 = 1e-6;

/// How many standard deviations of logarithms the bound for another window is above the mean of so many windows seen, so that
/// one in a hundred others like them exceeds it: Student's t at 0.99 times the root of 1 + 1/n. Of a number between two the
/// one of the smaller. Texts of another kind are less like them.
const DEVIATIONS: [(usize, f64); 7] =
    [(2, 39.0), (3, 8.04), (4, 5.08), (5, 4.10), (6, 3.63), (8, 3.18), (12, 2.83)];

/// The squared relative error of the base's from which on there is a difference: what rounding to f16 does is below it.
const LEAST_SQUARE: f64 = 1e-6;

/// The most rungs.
const MOST_RUNGS: usize = 48;

const HALVES: [PageHalf; 2] = [PageHalf::K, PageHalf::V];

/// By layer, for keys and for values: the codec, or `None` where the base's stand for them.
type Mix = Vec<[Option<PageCodec>; 2]>;

/// Squared errors relative to what was exact, by layer, of keys and of values.
type Squares = Vec<[f64; 2]>;

/// The keys or the values of one layer in a codec.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Choice {
    codec: Option<PageCodec>,
    /// Of a page.
    bytes: usize,
    /// The squared relative error.
    square: f64,
}

/// What there is to choose from for the keys or the values of a layer, from few bytes to many: what another one is better
/// than for its bytes is left out.
#[derive(Debug)]
struct Place {
    layer: usize,
    half: usize,
    choices: Vec<Choice>,
    /// Divergence over squared relative error.
    sensitivity: f64,
}

/// What a way of storing did to one window.
#[derive(Debug)]
pub struct Outcome {
    /// The mean divergence.
    kl: f64,
    squares: Squares,
}

/// Makes the ladder of an adapter of which everything else has been calibrated, on windows that the engine has room for as
/// [`measure`](crate::measure) has. `done` is told after each measurement how many there have been, and of how many: first of
/// layers, then of rungs.
///
/// # Errors
/// If a window is too short, or the engine fails.
pub fn ladder(
    engine: &mut Engine,
    subject: Subject<'_>,
    windows: &Windows,
    parts: Parts,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Ladder, CalibrateError> {
    let config = engine.config();
    let (layers, heads, head_dim) = (config.layers, config.kv_heads, config.head_dim);
    let mut places: Vec<Place> = (0..layers)
        .flat_map(|layer| [0, 1].map(|half| (layer, half)))
        .map(|(layer, half)| {
            let choices = hull(choices(subject, layer, half, heads, head_dim));
            Place { layer, half, choices, sensitivity: 0.0 }
        })
        .collect();
    // Where nothing differs there is nothing to be lost.
    places.retain(|place| place.choices.first().is_some_and(|choice| choice.square > LEAST_SQUARE));

    let mut run = |mixes: &[Mix]| {
        let store = |prefix: &Prefix<'_>, mix: usize| prefix.store_mixed(&mixes[mix]);
        outcomes(engine, subject, windows, parts, mixes.len(), store, done)
    };
    let exact = Some(PageCodec::Exact(PageElement::F32));
    let alone = |place: &Place| {
        let mut mix = vec![[exact; 2]; layers];
        mix[place.layer][place.half] = None;
        mix
    };
    let probes: Vec<Mix> = places.iter().map(alone).collect();
    for (place, outcomes) in places.iter_mut().zip(run(&probes)?) {
        let kl: f64 = outcomes.iter().map(|outcome| outcome.kl).sum();
        let square: f64 = outcomes.iter().map(|outcome| outcome.squares[place.layer][place.half]).sum();
        place.sensitivity = if square > 0.0 { (kl / square).max(0.0) } else { 0.0 };
    }
    let mut ladder = Ladder { sensitivities: vec![[0.0; 2]; layers], rungs: Vec::new() };
    for place in &places {
        ladder.sensitivities[place.layer][place.half] = place.sensitivity as f32;
    }
    let mixes = mixes(&places, layers);
    let outcomes = run(&mixes)?;
    let spread = spread(&ladder, &outcomes);
    for (layers, outcomes) in mixes.into_iter().zip(outcomes) {
        let mut rung = rung(&ladder, layers, &outcomes, spread);
        if ladder.costs_nothing() {
            // What an adapter adds that changes nothing is nothing: the base's pages stand for all of its. Whoever stores them so
            // measures what that loses after all.
            rung.bound = rung.kl.max(f32::MIN_POSITIVE);
        }
        // What else seems to cost nothing was not measured.
        if rung.bound > 0.0 && rung.bound.is_finite() {
            ladder.rungs.push(rung);
        }
    }
    Ok(ladder)
}

/// Everything that is decoded over the base's pages and was measured, and the base's pages themselves.
fn choices(subject: Subject<'_>, layer: usize, half: usize, heads: usize, head_dim: usize) -> Vec<Choice> {
    let codec = |codec: &Codec| match codec {
        Codec::Base => Some(None),
        Codec::Page(PageCodec::LowRank { keeps_first: true, .. }) => None,
        Codec::Page(page) if !page.stands_alone() => Some(Some(*page)),
        _ => None,
    };
    let choice = |measured: &MeasuredCodec| {
        let codec = codec(&measured.codec.parse().ok()?)?;
        let bytes = codec.map_or(0, |codec| codec.page_bytes(HALVES[half], heads, head_dim));
        let errors = [&measured.k_errors, &measured.v_errors][half];
        Some(Choice { codec, bytes, square: f64::from(*errors.get(layer)?).powi(2) })
    };
    subject.calibration.iter().flat_map(|calibration| &calibration.measured).filter_map(choice).collect()
}

/// The lower convex hull of squared errors over bytes.
fn hull(mut choices: Vec<Choice>) -> Vec<Choice> {
    choices.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.square.total_cmp(&b.square)));
    let mut hull: Vec<Choice> = Vec::new();
    for next in choices {
        if hull.last().is_some_and(|last| next.square >= last.square) {
            continue;
        }
        while let [.., before, last] = hull[..]
            && rate(before, last) <= rate(before, next)
        {
            hull.pop();
        }
        hull.push(next);
    }
    hull
}

/// Squared error that is saved for a byte.
fn rate(from: Choice, to: Choice) -> f64 {
    (from.square - to.square) / (to.bytes - from.bytes) as f64
}

/// The rungs, from the base's pages alone on.
fn mixes(places: &[Place], layers: usize) -> Vec<Mix> {
    // Of each place rates fall along its hull, so that sorting keeps its steps in order.
    let mut steps: Vec<(&Place, Choice, Choice)> = places
        .iter()
        .flat_map(|place| place.choices.windows(2).map(move |pair| (place, pair[0], pair[1])))
        .collect();
    steps.sort_by(|(a, from, to), (b, low, high)| {
        (b.sensitivity * rate(*low, *high)).total_cmp(&(a.sensitivity * rate(*from, *to)))
    });
    let start = |place: &Place| place.choices.first().map_or(0.0, |choice| choice.square);
    let mut divergence: f64 = places.iter().map(|place| place.sensitivity * start(place)).sum();
    let mut mix: Mix = vec![[None; 2]; layers];
    let (mut mixes, mut last) = (vec![mix.clone()], divergence);
    for (at, (place, from, to)) in steps.iter().enumerate() {
        if last <= LEAST_DIVERGENCE || mixes.len() == MOST_RUNGS {
            break;
        }
        mix[place.layer][place.half] = to.codec;
        divergence -= place.sensitivity * (from.square - to.square);
        if divergence <= STEP * last || at + 1 == steps.len() {
            mixes.push(mix.clone());
            last = divergence;
        }
    }
    mixes
}

/// For each window with a loss, the logarithm of its divergence over the weighted sum of its errors.
fn logarithms(ladder: &Ladder, outcomes: &[Outcome]) -> Vec<f64> {
    let ratios = outcomes.iter().map(|outcome| (outcome.kl, ladder.weighted(&outcome.squares)));
    ratios.filter(|(kl, sum)| *kl > 0.0 && *sum > 0.0).map(|(kl, sum)| (kl / sum).ln()).collect()
}

/// The standard deviation of these logarithms from window to window, all mixes in one.
pub fn spread(ladder: &Ladder, outcomes: &[Vec<Outcome>]) -> f64 {
    spread::spread(outcomes.iter().map(|outcomes| logarithms(ladder, outcomes)))
}

fn rung(ladder: &Ladder, layers: Mix, outcomes: &[Outcome], spread: f64) -> Rung {
    let [kl, factor, bound] = figures(ladder, outcomes, spread);
    Rung { layers, kl, factor, bound }
}

/// Mean divergence, factor and bound of a way of storing.
pub fn figures(ladder: &Ladder, outcomes: &[Outcome], spread: f64) -> [f32; 3] {
    let kl = mean(&outcomes.iter().map(|outcome| outcome.kl).collect::<Vec<_>>());
    let sums: Vec<f64> = outcomes.iter().map(|outcome| ladder.weighted(&outcome.squares)).collect();
    let factor =
        (mean(&logarithms(ladder, outcomes)) + deviations(&DEVIATIONS, outcomes.len()) * spread).exp();
    [kl as f32, factor as f32, (factor * mean(&sums)) as f32]
}

/// What each of several ways to store did to each window.
pub fn outcomes(
    engine: &mut Engine,
    subject: Subject<'_>,
    windows: &Windows,
    parts: Parts,
    ways: usize,
    store: impl Fn(&Prefix<'_>, usize) -> Result<Stored, CalibrateError>,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<Outcome>>, CalibrateError> {
    let mut outcomes: Vec<Vec<Outcome>> = (0..ways).map(|_| Vec::new()).collect();
    let (mut count, total) = (0, ways * windows.rows.len());
    each_way(engine, subject, windows, parts, ways, store, |way, Seen { prefix, stored, score, .. }| {
        // Rounding may take a divergence of nothing below it.
        let kl = mean(&score.kl).max(0.0);
        outcomes[way].push(Outcome { kl, squares: squares(prefix, &stored) });
        count += 1;
        done(count, total);
    })?;
    Ok(outcomes)
}

fn squares(prefix: &Prefix<'_>, stored: &Stored) -> Squares {
    let square = |found: &[f32], own: &[f32]| {
        let norm: f64 = own.iter().map(|value| f64::from(*value).powi(2)).sum();
        if norm > 0.0 { distance(found, own) / norm } else { 0.0 }
    };
    let layers = stored.kv.layers.iter().zip(&prefix.own().layers);
    layers.map(|(found, own)| [square(&found[0], &own[0]), square(&found[1], &own[1])]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use interleaf_contract::Bits;

    fn choice(codec: Option<PageCodec>, bytes: usize, square: f64) -> Choice {
        Choice { codec, bytes, square }
    }

    #[test]
    fn what_others_are_better_than_for_its_bytes_is_left_out() {
        let good = [
            choice(None, 0, 1.0),
            choice(Some(PageCodec::Delta(Bits::Two)), 10, 0.2),
            choice(Some(PageCodec::Delta(Bits::Eight)), 40, 0.0),
        ];
        // Above the line between two, more for the same bytes, and worse for more.
        let bad = [
            choice(Some(PageCodec::Delta(Bits::Four)), 20, 0.19),
            choice(Some(PageCodec::Grouped(Bits::Two)), 10, 0.3),
            choice(Some(PageCodec::Grouped(Bits::Four)), 12, 0.5),
        ];
        let all: Vec<Choice> = good.iter().rev().chain(&bad).copied().collect();
        assert_eq!(hull(all), good);
    }

    #[test]
    fn fewer_windows_are_never_trusted_more() {
        let all: Vec<f64> = (1..16).map(|windows| deviations(&DEVIATIONS, windows)).collect();
        assert!(all.is_sorted_by(|fewer, more| fewer >= more), "{all:?}");
        assert_eq!((all[0], all[14]), (39.0, 2.83));
    }

    #[test]
    fn bytes_go_where_they_save_most() {
        let small = Some(PageCodec::Delta(Bits::Two));
        let place = |layer, half, sensitivity| Place {
            layer,
            half,
            choices: vec![choice(None, 0, 1.0), choice(small, 16, 0.0)],
            sensitivity,
        };
        // Values of layer 1 cost most, then its keys; those of layer 0 nothing but bytes.
        let mixes = mixes(&[place(0, 1, 0.125), place(1, 0, 1.0), place(1, 1, 2.0)], 2);
        let none = [None, None];
        let expected = [
            vec![none, none],
            vec![none, [None, small]],
            vec![none, [small, small]],
            vec![[None, small], [small, small]],
        ];
        assert_eq!(mixes, expected);
    }
}
