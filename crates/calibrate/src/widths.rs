//! What it costs to give each chunk of a prefix 8, 4 or 2 bits: by how much it is attended to, by where it is, or by chance;
//! and how well a few layers and heads tell how much that is. A model reads on over its own pages, encoded and read back.

use interleaf_contract::{Bits, CHUNK_TOKENS, PageCodec, PageHalf};
use interleaf_kv::{Graded, KvError, Tolerance, Width, choose_widths};
use interleaf_runtime::{
    Engine, EngineError, Feed, MassSampling, RowKind, SequenceHandle, WIDTH_ERRORS, Want,
};

use crate::pages::{Form, through};
use crate::score::{Reference, Score};
use crate::spread::{mean, quantile};
use crate::{CalibrateError, Kv, Parts, Windows, fit};

/// Orders that are drawn for [`Assigned::Random`].
pub const SEEDS: usize = 10;

/// How chunks get the widths that there are for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assigned {
    /// To what gets most attention the widest, as measured of some layers and heads.
    ByDensity(MassSampling),
    /// By chance, the mean of [`SEEDS`] orders; the same widths as by density.
    Random,
    /// The newest chunks the widest; the same.
    Newest,
    /// The oldest; the same.
    Oldest,
    /// All chunks one width, whatever the ratio.
    All(Width),
    /// All chunks one width in keys or in values alone, whatever the ratio.
    Half(PageHalf, Width),
}

impl Assigned {
    /// Whether its widths are its own, whatever the ratio.
    const fn has_own(self) -> bool {
        matches!(self, Self::All(_) | Self::Half(..))
    }
}

impl std::fmt::Display for Assigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ByDensity(MassSampling { layers: 1, heads: 1 }) => write!(f, "by attention mass"),
            Self::ByDensity(MassSampling { layers, heads }) => {
                write!(f, "by attention mass, 1 of {layers} layers and {heads} heads")
            }
            Self::Random => write!(f, "at random"),
            Self::Newest => write!(f, "newest widest"),
            Self::Oldest => write!(f, "oldest widest"),
            Self::All(width) => write!(f, "all {} bits", width.bits()),
            Self::Half(half, width) => write!(f, "all {half:?} {} bits", width.bits()),
        }
    }
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct WidthPlan {
    /// Whose pages: an adapter's by its name in the engine, or the base's.
    pub adapter: Option<String>,
    /// Where windows are parted.
    pub parts: Parts,
    /// Shares of what 8 bits take.
    pub ratios: Vec<f64>,
    /// The newest chunks, which stay exact and are not counted.
    pub newest: usize,
    /// The ways.
    pub ways: Vec<Assigned>,
}

/// What one way cost at one ratio.
#[derive(Debug, Clone)]
pub struct WidthCost {
    /// Share of what 8 bits take that was allowed; `None` where the way has its own.
    pub ratio: Option<f64>,
    /// The way.
    pub assigned: Assigned,
    /// Share of what 8 bits take that was taken, scales and rounding to whole pages included, the newest chunks not counted.
    pub bytes: f64,
    /// The mean divergence of each window, in nats; of several orders that of all.
    pub windows: Vec<f64>,
    /// Of each scored position, ascending.
    pub kl: Vec<f64>,
    /// The perplexity as a multiple of that over exact pages.
    pub perplexity_ratio: f64,
    /// Share of positions whose most likely token is the same.
    pub same_top: f64,
    /// Of each window the divergence over the squared relative error of what was encoded; where one half was.
    pub factors: Vec<f64>,
}

impl WidthCost {
    /// The mean divergence, in nats.
    #[must_use]
    pub fn kl_mean(&self) -> f64 {
        mean(&self.kl)
    }

    /// The divergence that a share of positions is at or below.
    #[must_use]
    pub fn kl_quantile(&self, share: f64) -> f64 {
        quantile(&self.kl, share)
    }
}

/// How attention falls on chunks.
#[derive(Debug, Clone)]
pub struct MassShape {
    /// What the tenth, the quarter and the half of a window's chunks that get most have of what all get, the newest left out:
    /// means over windows.
    pub top: [f64; 3],
    /// Of each sampling of the ways, how its order of chunks agrees with that of all layers and heads: Spearman's ρ, the mean over
    /// windows and the least.
    pub agreement: Vec<(MassSampling, [f64; 2])>,
}

/// What was measured of an adapter.
#[derive(Debug, Clone)]
pub struct WidthsMeasured {
    /// By ratio, then by way; those without a ratio come last.
    pub costs: Vec<WidthCost>,
    /// What all of it goes by.
    pub mass: MassShape,
}

/// Measures ways of assigning widths on windows. The engine must keep its pages as f32 and have room for one sequence of such a
/// window. `done` is called after each window.
///
/// # Errors
/// If a window is too short, the prefix is not of whole chunks, a ratio leaves too little room, or the engine fails.
pub fn measure_widths(
    engine: &mut Engine,
    plan: &WidthPlan,
    windows: &Windows,
    done: &mut dyn FnMut(),
) -> Result<WidthsMeasured, CalibrateError> {
    let Parts { prefix, continuation } = plan.parts;
    check(plan, windows)?;
    let mut sums: Vec<Sums> = jobs(plan).map(|(ratio, assigned)| Sums::new(ratio, assigned)).collect();
    let mut mass = MassSums::default();
    for (place, row) in windows.rows.iter().enumerate() {
        let (before, after) = row[..prefix + continuation].split_at(prefix);
        let sequence = engine.open_sequence(plan.adapter.as_deref(), row)?;
        let measured = window(engine, sequence, plan, (before, after), place, &mut sums, &mut mass);
        engine.measure_mass(None)?;
        engine.close_sequence(sequence)?;
        measured?;
        done();
    }
    Ok(WidthsMeasured { costs: sums.into_iter().map(Sums::finish).collect(), mass: mass.finish() })
}

fn check(plan: &WidthPlan, windows: &Windows) -> Result<(), CalibrateError> {
    let Parts { prefix, continuation } = plan.parts;
    let refused = |field, expected: String, found: usize| {
        let found = found.to_string();
        Err(CalibrateError::Windows { text: windows.text.clone(), field, expected, found })
    };
    if let Some(row) = windows.rows.iter().find(|row| row.len() < prefix + continuation) {
        return refused("tokens of a window", format!("at least {}", prefix + continuation), row.len());
    }
    if !prefix.is_multiple_of(CHUNK_TOKENS) || prefix / CHUNK_TOKENS <= plan.newest {
        let expected = format!("whole chunks of {CHUNK_TOKENS}, more than {} of them", plan.newest);
        return refused("tokens of the prefix", expected, prefix);
    }
    Ok(())
}

/// What is tried: those that have no ratio of their own at each, and the others once.
fn jobs(plan: &WidthPlan) -> impl Iterator<Item = (Option<f64>, Assigned)> {
    let of_ratio =
        |ratio: f64| plan.ways.iter().filter(|way| !way.has_own()).map(move |way| (Some(ratio), *way));
    let fixed = plan.ways.iter().filter(|way| way.has_own()).map(|way| (None, *way));
    plan.ratios.iter().copied().flat_map(of_ratio).chain(fixed)
}

fn samplings(plan: &WidthPlan) -> Vec<MassSampling> {
    let of = |way: &Assigned| match way {
        Assigned::ByDensity(sampling) => Some(*sampling),
        _ => None,
    };
    let mut all = vec![MassSampling::ALL];
    all.extend(plan.ways.iter().filter_map(of).filter(|sampling| *sampling != MassSampling::ALL));
    all
}

/// Tries everything on one window.
fn window(
    engine: &mut Engine,
    sequence: SequenceHandle,
    plan: &WidthPlan,
    (before, after): (&[u32], &[u32]),
    place: usize,
    sums: &mut [Sums],
    mass: &mut MassSums,
) -> Result<(), CalibrateError> {
    let samplings = samplings(plan);
    let mut densities = Vec::with_capacity(samplings.len());
    for sampling in samplings.iter().rev() {
        engine.truncate_sequence(sequence, 0)?;
        densities.push((*sampling, measured(engine, sequence, *sampling, before)?));
    }
    densities.reverse();
    let counted = before.len() / CHUNK_TOKENS - plan.newest;
    mass.add(&densities, counted);
    let own = Kv::read(engine, sequence, before.len())?;
    let reference = Reference::new(engine, sequence, after)?;
    let coded = Coded::new(engine, &own);
    for sums in sums {
        let orders = if sums.assigned == Assigned::Random { SEEDS } else { 1 };
        let mut kl = 0.0;
        for order in 0..orders {
            let widths = coded.assign(plan, sums, &densities, place * SEEDS + order)?;
            let (kv, bytes) = coded.mixed(&own, &widths, sums.halves());
            engine.truncate_sequence(sequence, before.len())?;
            kv.write(engine, sequence)?;
            let score = reference.score(engine, sequence, after)?;
            // Rounding may take a divergence of nothing below it.
            kl += mean(&score.kl).max(0.0);
            sums.add(score, bytes);
        }
        kl /= orders as f64;
        sums.windows.push(kl);
        if let Assigned::Half(half, width) = sums.assigned {
            sums.factors.push(kl / coded.error(&own, half, width, counted));
        }
    }
    Ok(())
}

/// How much each chunk of a prefix is attended to while it is computed, over all rows that see it.
fn measured(
    engine: &mut Engine,
    sequence: SequenceHandle,
    sampling: MassSampling,
    before: &[u32],
) -> Result<Vec<f64>, EngineError> {
    engine.measure_mass(Some(sampling))?;
    let chunks = before.len() / CHUNK_TOKENS;
    let mut densities = vec![0.0; chunks];
    for tokens in before.chunks(128) {
        let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Nothing };
        for fed in engine.feed(&[feed])? {
            densities.iter_mut().zip(&fed.mass).for_each(|(density, mass)| *density += f64::from(*mass));
        }
    }
    engine.measure_mass(None)?;
    // Pairs of a token of the chunk and one that sees it.
    let within = (CHUNK_TOKENS * (CHUNK_TOKENS + 1) / 2) as f64;
    let seen = |chunk: usize| within + (CHUNK_TOKENS * CHUNK_TOKENS * (chunks - 1 - chunk)) as f64;
    densities.iter_mut().enumerate().for_each(|(chunk, density)| *density /= seen(chunk));
    Ok(densities)
}

/// A prefix's pages in each width.
struct Coded {
    /// By width, what they are read as.
    read: [Kv; 3],
    /// Bytes of a chunk's keys and of its values, by width.
    bytes: [[usize; 2]; 3],
    width: usize,
}

impl Coded {
    fn new(engine: &Engine, own: &Kv) -> Self {
        let config = engine.config();
        let width = fit::width(config);
        let chunks = own.tokens / CHUNK_TOKENS;
        let mut bytes = [[0; 2]; 3];
        let read = [Bits::Eight, Bits::Four, Bits::Two].map(|bits| {
            let form = Form::plain(PageCodec::Quantised(bits));
            let place =
                [Bits::Eight, Bits::Four, Bits::Two].iter().position(|other| *other == bits).unwrap_or(0);
            let layers = own.layers.iter().map(|layer| {
                [PageHalf::K, PageHalf::V].map(|half| {
                    let values = &layer[half as usize];
                    let (read, stored) = through(&form, half, config.kv_heads, width, values, values);
                    bytes[place][half as usize] += stored / chunks;
                    read
                })
            });
            Kv { tokens: own.tokens, layers: layers.collect() }
        });
        Self { read, bytes, width }
    }

    /// The widths of the chunks that are counted.
    fn assign(
        &self,
        plan: &WidthPlan,
        sums: &Sums,
        densities: &[(MassSampling, Vec<f64>)],
        seed: usize,
    ) -> Result<Vec<Width>, CalibrateError> {
        let counted = densities[0].1.len() - plan.newest;
        let all = |width| Ok(vec![width; counted]);
        let Some(ratio) = sums.ratio else {
            return match sums.assigned {
                Assigned::All(width) | Assigned::Half(_, width) => all(width),
                _ => all(Width::Eight),
            };
        };
        let bytes = self.bytes.map(|halves| halves.iter().sum::<usize>() as u64);
        let by_density = |densities: &[f64]| {
            let graded = densities[..counted].iter().map(|&density| Graded { density, bytes });
            let tolerance = Tolerance { errors: WIDTH_ERRORS, ratio, newest: 0 };
            let chosen = choose_widths(&graded.collect::<Vec<_>>(), &tolerance);
            Ok(chosen
                .map_err(|error| EngineError::from(KvError::from(error)))?
                .widths
                .into_iter()
                .flatten()
                .collect())
        };
        let mut widths: Vec<Width> = match sums.assigned {
            Assigned::ByDensity(sampling) => {
                let of = densities.iter().find(|(other, _)| *other == sampling).unwrap_or(&densities[0]);
                return by_density(&of.1);
            }
            _ => by_density(&densities[0].1)?,
        };
        widths.sort_unstable();
        match sums.assigned {
            Assigned::Newest => widths.reverse(),
            Assigned::Random => shuffle(&mut widths, seed as u64),
            _ => {}
        }
        Ok(widths)
    }

    /// A cache whose first chunks have some widths, in keys, in values or in both; and the bytes of these chunks.
    fn mixed(&self, own: &Kv, widths: &[Width], halves: &[PageHalf]) -> (Kv, [usize; 2]) {
        let mut kv = own.clone();
        let mut taken = [0; 2];
        for (chunk, width) in widths.iter().enumerate() {
            let at = chunk * CHUNK_TOKENS * self.width..(chunk + 1) * CHUNK_TOKENS * self.width;
            for (to, of) in kv.layers.iter_mut().zip(&self.read[*width as usize].layers) {
                for &half in halves {
                    to[half as usize][at.clone()].copy_from_slice(&of[half as usize][at.clone()]);
                }
            }
            for &half in halves {
                taken[0] += self.bytes[*width as usize][half as usize];
                taken[1] += self.bytes[Width::Eight as usize][half as usize];
            }
        }
        (kv, taken)
    }

    /// The squared relative error of keys or of values of the first chunks in a width, over all layers.
    fn error(&self, own: &Kv, half: PageHalf, width: Width, chunks: usize) -> f64 {
        let upto = chunks * CHUNK_TOKENS * self.width;
        let (mut error, mut square) = (0.0, 0.0);
        for (read, own) in self.read[width as usize].layers.iter().zip(&own.layers) {
            let own = &own[half as usize][..upto];
            error += crate::measure::distance(&read[half as usize][..upto], own);
            square += own.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        }
        error / square.max(f64::MIN_POSITIVE)
    }
}

/// Puts widths into an order that a seed stands for (Fisher and Yates; numbers by SplitMix64, Steele et al., 2014).
fn shuffle(widths: &mut [Width], seed: u64) {
    let mut state = seed;
    for i in (1..widths.len()).rev() {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        widths.swap(i, ((z ^ (z >> 31)) % (i as u64 + 1)) as usize);
    }
}

/// Sums over windows, of one way at one ratio.
#[derive(Debug)]
struct Sums {
    ratio: Option<f64>,
    assigned: Assigned,
    windows: Vec<f64>,
    factors: Vec<f64>,
    score: Score,
    /// That were taken, and that 8 bits would take.
    bytes: [usize; 2],
}

impl Sums {
    fn new(ratio: Option<f64>, assigned: Assigned) -> Self {
        let (windows, factors) = (Vec::new(), Vec::new());
        Self { ratio, assigned, windows, factors, score: Score::default(), bytes: [0; 2] }
    }

    const fn halves(&self) -> &'static [PageHalf] {
        match self.assigned {
            Assigned::Half(PageHalf::K, _) => &[PageHalf::K],
            Assigned::Half(PageHalf::V, _) => &[PageHalf::V],
            _ => &[PageHalf::K, PageHalf::V],
        }
    }

    fn add(&mut self, score: Score, bytes: [usize; 2]) {
        self.score.add(score);
        self.bytes.iter_mut().zip(bytes).for_each(|(sum, bytes)| *sum += bytes);
    }

    fn finish(mut self) -> WidthCost {
        self.score.kl.sort_by(f64::total_cmp);
        let scored = (self.score.kl.len() as f64).max(1.0);
        WidthCost {
            ratio: self.ratio,
            assigned: self.assigned,
            bytes: self.bytes[0] as f64 / self.bytes[1].max(1) as f64,
            windows: self.windows,
            kl: self.score.kl,
            perplexity_ratio: ((self.score.nll - self.score.own_nll) / scored).exp(),
            same_top: self.score.same_top as f64 / scored,
            factors: self.factors,
        }
    }
}

#[derive(Debug, Default)]
struct MassSums {
    windows: f64,
    top: [f64; 3],
    agreement: Vec<(MassSampling, Vec<f64>)>,
}

impl MassSums {
    fn add(&mut self, densities: &[(MassSampling, Vec<f64>)], counted: usize) {
        self.windows += 1.0;
        let all = &densities[0].1[..counted];
        let mut sorted = all.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let sum: f64 = sorted.iter().sum();
        for (top, share) in self.top.iter_mut().zip([0.1, 0.25, 0.5]) {
            let count = ((counted as f64 * share).ceil() as usize).min(counted);
            *top += sorted[..count].iter().sum::<f64>() / sum;
        }
        for (sampling, of) in &densities[1..] {
            let agreement = spearman(all, &of[..counted]);
            match self.agreement.iter_mut().find(|(other, _)| other == sampling) {
                Some((_, all)) => all.push(agreement),
                None => self.agreement.push((*sampling, vec![agreement])),
            }
        }
    }

    fn finish(self) -> MassShape {
        let of = |(sampling, all): (MassSampling, Vec<f64>)| {
            (sampling, [mean(&all), all.iter().copied().fold(1.0, f64::min)])
        };
        let top = self.top.map(|sum| sum / self.windows.max(1.0));
        MassShape { top, agreement: self.agreement.into_iter().map(of).collect() }
    }
}

/// Spearman's ρ: the correlation of ranks.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let ranks = |values: &[f64]| {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
        let mut ranks = vec![0.0; values.len()];
        order.into_iter().enumerate().for_each(|(rank, i)| ranks[i] = rank as f64);
        ranks
    };
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 - 1.0) / 2.0;
    let product: f64 = a.iter().zip(&b).map(|(a, b)| (a - middle) * (b - middle)).sum();
    let square: f64 = a.iter().map(|a| (a - middle).powi(2)).sum();
    if square > 0.0 { product / square } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_that_agree_are_told_from_those_that_do_not() {
        let all = [0.1, 0.4, 0.2, 0.9];
        assert_eq!(spearman(&all, &[1.0, 4.0, 2.0, 9.0]), 1.0);
        assert_eq!(spearman(&all, &[9.0, 2.0, 4.0, 1.0]), -1.0);
        assert!((spearman(&all, &[0.1, 0.4, 0.9, 0.2]) - 0.2).abs() < 1e-12);
    }

    #[test]
    fn orders_are_permutations_and_differ_by_seed() {
        let widths = [Width::Eight, Width::Four, Width::Four, Width::Two, Width::Two, Width::Two];
        let of = |seed| {
            let mut widths = widths;
            shuffle(&mut widths, seed);
            widths
        };
        let orders: Vec<_> = (0..10).map(of).collect();
        assert!(orders.windows(2).any(|pair| pair[0] != pair[1]));
        for mut order in orders {
            order.sort_unstable();
            assert_eq!(order, widths);
        }
    }
}
