//! What it costs to give each chunk of a prefix 8, 4 or 2 bits: by how much it is attended to, by where it is, or by chance;
//! and how well a few layers and heads tell how much that is. A model reads on over its own pages, encoded and read back.

mod coded;
mod mass;

use interleaf_contract::{CHUNK_TOKENS, PageHalf};
use interleaf_kv::Width;
use interleaf_runtime::{Engine, MassSampling, SequenceHandle};

use self::coded::Coded;
pub use self::mass::MassShape;
use self::mass::MassSums;
use crate::score::{Divergence, Reference, Score};
use crate::spread::mean;
use crate::{CalibrateError, Kv, Parts, Windows};

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
    /// From the outputs over exact pages; of several orders those of all.
    pub divergence: Divergence,
    /// Of each window the divergence over the squared relative error of what was encoded; where one half was.
    pub factors: Vec<f64>,
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
        densities.push((*sampling, mass::densities(engine, sequence, *sampling, before)?));
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

    fn finish(self) -> WidthCost {
        WidthCost {
            ratio: self.ratio,
            assigned: self.assigned,
            bytes: self.bytes[0] as f64 / self.bytes[1].max(1) as f64,
            windows: self.windows,
            divergence: self.score.finish(),
            factors: self.factors,
        }
    }
}
