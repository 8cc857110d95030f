//! What an adapter's first touch of a prefix costs that the base has in the cache: the base's pages as they are, or translated,
//! with the adapter's pass over some tokens or layers, against its pass over all. What is measured runs as in an engine that
//! answers, but for pages that are kept as f32.

mod bound;

use std::time::{Duration, Instant};

use interleaf_model::{JointCalibration, ModelConfig};
use interleaf_runtime::{Engine, SequenceHandle, TRANSLATION_RANK, TranslationMap};

pub use self::bound::{CONTINUATION, PREFIXES, bounds};
use crate::kv::{self, Kv};
use crate::prefix;
use crate::score::{Divergence, Reference, Score};
use crate::spread::mean;
use crate::{Anchor, CalibrateError, Windows, fit};

/// Layers whose keys and values say which tokens are computed by [`Touch::Selected`].
const SELECTING_LAYERS: usize = 2;

/// One token of so many is computed by [`Touch::Selected`].
const SELECTED: usize = 4;

/// A way of giving an adapter a prefix that the base has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Touch {
    /// The base's pages as they are; the adapter computes so many of the last tokens over them.
    Base {
        /// How many.
        computed: usize,
    },
    /// The base's pages translated by the joint map; the adapter computes so many of the last tokens over them.
    Translated {
        /// How many.
        computed: usize,
    },
    /// Like CacheBlend (Yao et al., arXiv 2405.16444, §4): the first two layers of all tokens, and all layers of the quarter of
    /// the tokens whose values differ most there.
    Selected,
    /// Like DroidSpeak (Liu et al., arXiv 2411.02820, §4): a contiguous band of layers, here the lower half, which needs nothing
    /// but the tokens.
    Band,
    /// All tokens and layers: the adapter's own prefill.
    Full,
}

impl std::fmt::Display for Touch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Base { computed: 0 } => write!(f, "base"),
            Self::Base { computed } => write!(f, "base + last {computed}"),
            Self::Translated { computed: 0 } => write!(f, "translated"),
            Self::Translated { computed } => write!(f, "translated + last {computed}"),
            Self::Selected => write!(f, "selected tokens"),
            Self::Band => write!(f, "lower layers"),
            Self::Full => write!(f, "full prefill"),
        }
    }
}

impl Touch {
    /// Whether it needs a map over all layers.
    #[must_use]
    pub const fn needs_map(self) -> bool {
        matches!(self, Self::Translated { .. })
    }

    /// Floating-point operations for a prefix of so many tokens, logits left out. `rank` is that of the map.
    #[must_use]
    pub fn flops(self, config: &ModelConfig, tokens: usize, rank: usize) -> f64 {
        let layers = config.layers;
        let pass = |layers: usize, positions: std::ops::Range<usize>| pass_flops(config, layers, positions);
        let tail = |computed: usize| pass(layers, tokens - computed.min(tokens)..tokens);
        match self {
            Self::Base { computed } => tail(computed),
            Self::Translated { computed } => {
                let outputs = 2 * layers * fit::width(config);
                let map = 2 * rank * (2 * outputs + config.hidden_size);
                (map * (tokens - computed.min(tokens))) as f64 + tail(computed)
            }
            Self::Selected => {
                let few = SELECTING_LAYERS.min(layers);
                // Which tokens is not known here: as many, at the mean position.
                pass(few, 0..tokens) + pass(layers - few, 0..tokens) / SELECTED as f64
            }
            Self::Band => pass(layers / 2, 0..tokens),
            Self::Full => pass(layers, 0..tokens),
        }
    }
}

/// Of the base's pass of so many layers over tokens at some positions, each of which attends to those before it.
fn pass_flops(config: &ModelConfig, layers: usize, positions: std::ops::Range<usize>) -> f64 {
    let (hidden, mlp) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.heads * config.head_dim, fit::width(config));
    let linear = 2 * (hidden * (2 * q + 2 * kv) + 3 * hidden * mlp) * positions.len();
    let seen: usize = positions.map(|position| position + 1).sum();
    (layers * (linear + 4 * q * seen)) as f64
}

/// What a way cost.
#[derive(Debug, Clone)]
pub struct Touched {
    /// The way.
    pub touch: Touch,
    /// The mean divergence of each window, in nats.
    pub windows: Vec<f64>,
    /// From the outputs over the exact cache.
    pub divergence: Divergence,
    /// What it takes, as a share of the time of the adapter's own prefill: medians over windows. `None` where it was not run as
    /// it would be.
    pub time: Option<f64>,
    /// Floating-point operations as a share of those of the adapter's own prefill.
    pub flops: f64,
}

/// Whose first touch is measured.
#[derive(Debug, Clone, Copy)]
pub struct Toucher<'a> {
    /// The adapter, by its name in the engine.
    pub adapter: &'a str,
    /// Its map; without one nothing is translated.
    pub joint: Option<&'a JointCalibration>,
    /// How the base's pages are stored.
    pub anchor: Anchor,
}

/// Measures ways on windows, of which the first `prefix` tokens are the prefix; what follows is read over it. The engine must keep
/// its pages as f32 and have room for two sequences of such a window. `done` is called after each way of each window.
///
/// # Errors
/// If a window is no longer than the prefix, a way needs a map that is not given, or the engine fails.
pub fn measure_touches(
    engine: &mut Engine,
    toucher: Toucher<'_>,
    windows: &Windows,
    prefix: usize,
    touches: &[Touch],
    done: &mut dyn FnMut(),
) -> Result<Vec<Touched>, CalibrateError> {
    if let Some(row) = windows.rows.iter().find(|row| row.len() < prefix + 2) {
        return Err(CalibrateError::Windows {
            text: windows.text.clone(),
            field: "tokens of a window",
            expected: format!("more than {}", prefix + 1),
            found: row.len().to_string(),
        });
    }
    let map = toucher.joint.map(|joint| engine.create_map(toucher.adapter, joint)).transpose()?;
    let measured = measure_with(engine, toucher, map.as_ref(), windows, prefix, touches, done);
    if let Some(map) = map {
        engine.drop_map(map)?;
    }
    let rank = toucher.joint.map_or(0, |joint| joint.rank().min(TRANSLATION_RANK));
    let full = Touch::Full.flops(engine.config(), prefix, rank);
    let finish = |(touch, sums): (&Touch, Sums)| {
        sums.finish(*touch, touch.flops(engine.config(), prefix, rank) / full)
    };
    Ok(touches.iter().zip(measured?).map(finish).collect())
}

#[derive(Debug, Default)]
struct Sums {
    windows: Vec<f64>,
    score: Score,
    times: Vec<f64>,
}

impl Sums {
    fn add(&mut self, score: Score, time: Option<f64>) {
        // Rounding may take a divergence of nothing below it.
        self.windows.push(mean(&score.kl).max(0.0));
        self.score.add(score);
        self.times.extend(time);
    }

    fn finish(mut self, touch: Touch, flops: f64) -> Touched {
        self.times.sort_by(f64::total_cmp);
        Touched {
            touch,
            windows: self.windows,
            divergence: self.score.finish(),
            time: self.times.get(self.times.len() / 2).copied(),
            flops,
        }
    }
}

fn measure_with(
    engine: &mut Engine,
    toucher: Toucher<'_>,
    map: Option<&TranslationMap>,
    windows: &Windows,
    prefix: usize,
    touches: &[Touch],
    done: &mut dyn FnMut(),
) -> Result<Vec<Sums>, CalibrateError> {
    let mut sums: Vec<Sums> = touches.iter().map(|_| Sums::default()).collect();
    for row in &windows.rows {
        let (before, after) = row.split_at(prefix);
        let exact = Kv::compute(engine, None, before)?;
        let base = prefix::anchored(toucher.anchor, engine.config(), &exact).kv;
        let sequence = engine.open_sequence(Some(toucher.adapter), row)?;
        let full = timed(|| kv::feed(engine, sequence, before))?;
        let own = Kv::read(engine, sequence, prefix)?;
        let reference = Reference::new(engine, sequence, after)?;
        let run = Run { toucher, map, before, base: &base, own: &own, sequence };
        for (touch, sums) in touches.iter().zip(&mut sums) {
            engine.truncate_sequence(sequence, prefix)?;
            let time = match touch {
                Touch::Full => {
                    own.write(engine, sequence)?;
                    Some(full)
                }
                touch => run.touch(engine, *touch)?,
            };
            let score = reference.score(engine, sequence, after)?;
            sums.add(score, time.map(|time| time.as_secs_f64() / full.as_secs_f64()));
            done();
        }
        engine.close_sequence(sequence)?;
    }
    Ok(sums)
}

fn timed<E>(act: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
    let start = Instant::now();
    act().map(|()| start.elapsed())
}

/// One prefix.
struct Run<'a> {
    toucher: Toucher<'a>,
    map: Option<&'a TranslationMap>,
    before: &'a [u32],
    base: &'a Kv,
    own: &'a Kv,
    sequence: SequenceHandle,
}

impl Run<'_> {
    /// Gives the sequence its prefix in some way, and says how long that took, the writing of what was there before left out.
    fn touch(&self, engine: &mut Engine, touch: Touch) -> Result<Option<Duration>, CalibrateError> {
        let Self { toucher, map, before, base, own, sequence } = *self;
        let tail = |computed: usize| before.len() - computed.min(before.len());
        match touch {
            Touch::Base { computed } => {
                base.write(engine, sequence)?;
                Ok(Some(timed(|| read_on(engine, sequence, before, tail(computed)))?))
            }
            Touch::Translated { computed } => {
                let Some(map) = map else {
                    let (needed, adapter) = ("a map over all layers", toucher.adapter.into());
                    return Err(CalibrateError::NotCalibrated { codec: touch.to_string(), needed, adapter });
                };
                base.write(engine, sequence)?;
                Ok(Some(timed(|| {
                    engine.translate_tokens(sequence, before, 0..tail(computed), map)?;
                    read_on(engine, sequence, before, tail(computed))
                })?))
            }
            Touch::Selected => {
                let few = SELECTING_LAYERS.min(own.layers.len());
                mixed(own, base, few).write(engine, sequence)?;
                engine.recompute(sequence, before, &self.differing(few))?;
                Ok(None)
            }
            Touch::Band => {
                mixed(own, base, own.layers.len() / 2).write(engine, sequence)?;
                Ok(None)
            }
            Touch::Full => Ok(None),
        }
    }

    /// The tokens whose values differ most from the base's in some of the lowest layers, ascending.
    fn differing(&self, layers: usize) -> Vec<usize> {
        let tokens = self.before.len();
        let mut distances = vec![0.0; tokens];
        for ([_, own], [_, base]) in self.own.layers.iter().zip(&self.base.layers).take(layers) {
            let width = own.len() / tokens;
            let rows = own.chunks_exact(width).zip(base.chunks_exact(width));
            for (distance, (own, base)) in distances.iter_mut().zip(rows) {
                *distance += crate::measure::distance(own, base);
            }
        }
        let mut order: Vec<usize> = (0..tokens).collect();
        order.sort_by(|&a, &b| distances[b].total_cmp(&distances[a]));
        order.truncate(tokens / SELECTED);
        order.sort_unstable();
        order
    }
}

/// The adapter's own pass over a prefix from a token on.
fn read_on(
    engine: &mut Engine,
    sequence: SequenceHandle,
    before: &[u32],
    from: usize,
) -> Result<(), interleaf_runtime::EngineError> {
    engine.truncate_sequence(sequence, from)?;
    kv::feed(engine, sequence, &before[from..])
}

/// The lowest layers of one cache, and the others of another.
fn mixed(low: &Kv, high: &Kv, layers: usize) -> Kv {
    let mixed = low.layers.iter().take(layers).chain(high.layers.iter().skip(layers));
    Kv { tokens: low.tokens, layers: mixed.cloned().collect() }
}
