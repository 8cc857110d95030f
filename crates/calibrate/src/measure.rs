//! What codecs cost: an adapter reads on over its own cache of a prefix as each codec gives it back, token by token as they
//! were written, and its outputs are held against those over its own exact cache. What it computes on the way stays exact.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_model::{Calibration, WeightFormat};
use interleaf_runtime::Engine;

use crate::kv::{self, Kv};
use crate::prefix::{Means, Prefix, Stored};
use crate::score::{Reference, Score};
use crate::turns::Turns;
use crate::{CalibrateError, Codec, Windows, fit};

/// Where windows are parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Tokens of the prefix, whose cache is stored.
    pub prefix: usize,
    /// Tokens after it, of which all but the first are scored: what precedes the first is still the exact cache's.
    pub continuation: usize,
}

/// What one codec cost.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The codec.
    pub codec: Codec,
    /// Bytes that it stores for a token on top of the base's cache.
    pub bytes_per_token: f64,
    /// Divergence of each scored position, in nats, ascending.
    pub kl: Vec<f64>,
    /// Share of positions whose most likely token is the same.
    pub same_top: f64,
    /// Mean negative log likelihood, in nats, of the tokens over its cache and over the exact one.
    pub nll: [f64; 2],
    /// By layer, the root of the squared error of keys and of values over that of the adapter's own.
    pub errors: Vec<[f64; 2]>,
    /// The same of keys and values of all layers together, over the difference from the base's.
    pub error_left: f64,
}

impl Measured {
    /// The mean divergence in nats.
    #[must_use]
    pub fn kl_mean(&self) -> f64 {
        self.kl.iter().sum::<f64>() / (self.kl.len() as f64).max(1.0)
    }

    /// The divergence that a share of positions is at or below.
    #[must_use]
    pub fn kl_quantile(&self, share: f64) -> f64 {
        let at = (share * self.kl.len() as f64).ceil() as usize;
        self.kl.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// The perplexity over its cache as a multiple of that over the exact one.
    #[must_use]
    pub fn perplexity_ratio(&self) -> f64 {
        (self.nll[0] - self.nll[1]).exp()
    }

    /// The relative error of all keys, or of all values: the root of the mean of the layers' squares.
    #[must_use]
    pub fn error(&self, half: usize) -> f64 {
        let squares: f64 = self.errors.iter().map(|errors| errors[half].powi(2)).sum();
        (squares / (self.errors.len() as f64).max(1.0)).sqrt()
    }
}

/// Sums over windows, of one codec.
#[derive(Debug, Default)]
struct Sums {
    bytes: usize,
    score: Score,
    /// By layer, of keys and of values: squared error, and square of the adapter's own.
    errors: Vec<[[f64; 2]; 2]>,
    error: f64,
    difference: f64,
}

/// Measures codecs on windows, each under `adapter`. The engine must keep its pages as f32 and have room for one sequence of
/// such a window. `done` is called after each codec of each window.
///
/// # Errors
/// If a window is too short, a codec needs a calibration that is not given, or the engine fails.
pub fn measure(
    engine: &mut Engine,
    adapter: &str,
    windows: &Windows,
    parts: Parts,
    codecs: &[Codec],
    calibration: Option<&Calibration>,
    done: &mut dyn FnMut(),
) -> Result<Vec<Measured>, CalibrateError> {
    let mut sums: Vec<Sums> = codecs.iter().map(|_| Sums::default()).collect();
    let store = |prefix: &Prefix<'_>, codec: usize| prefix.store(codecs[codec]);
    each_way(
        engine,
        adapter,
        windows,
        parts,
        calibration,
        codecs.len(),
        store,
        |codec, prefix, stored, score| {
            sums[codec].add(stored.bytes, &stored.kv, prefix, score);
            done();
        },
    )?;
    let tokens = windows.rows.len() * parts.prefix;
    Ok(codecs.iter().zip(sums).map(|(codec, sums)| sums.finish(*codec, tokens)).collect())
}

/// Lets an adapter read on, in each window, over what each of several ways to store makes of its cache of the prefix.
/// `store` puts a prefix through one, and `each` is told what came of it.
#[expect(clippy::too_many_arguments, reason = "what is measured, on what, and two functions")]
pub fn each_way(
    engine: &mut Engine,
    adapter: &str,
    windows: &Windows,
    parts: Parts,
    calibration: Option<&Calibration>,
    ways: usize,
    store: impl Fn(&Prefix<'_>, usize) -> Result<Stored, CalibrateError>,
    mut each: impl FnMut(usize, &Prefix<'_>, &Stored, Score),
) -> Result<(), CalibrateError> {
    let length = parts.prefix + parts.continuation;
    if let Some(row) = windows.rows.iter().find(|row| row.len() < length) {
        return Err(CalibrateError::Windows {
            text: windows.text.clone(),
            field: "tokens of a window",
            expected: format!("at least {length}"),
            found: row.len().to_string(),
        });
    }
    if !parts.prefix.is_multiple_of(CHUNK_TOKENS) {
        return Err(CalibrateError::Windows {
            text: windows.text.clone(),
            field: "tokens of the prefix",
            expected: format!("a multiple of {CHUNK_TOKENS}, whole pages"),
            found: parts.prefix.to_string(),
        });
    }
    let turns = Turns::new(engine.config(), parts.prefix);
    let embedding = engine.model().embedding(WeightFormat::Stored)?;
    let means = Means { adapter, calibration, embedding: &embedding, turns: &turns };
    for row in &windows.rows {
        let (prefix, after) = row[..length].split_at(parts.prefix);
        let base = Kv::compute(engine, None, prefix)?;
        let sequence = engine.open_sequence(Some(adapter), row)?;
        kv::feed(engine, sequence, prefix)?;
        let own = Kv::read(engine, sequence, prefix.len())?;
        let reference = Reference::new(engine, sequence, after)?;
        let pair = Prefix::new(engine.config(), prefix, base, own, means);
        for way in 0..ways {
            let stored = store(&pair, way)?;
            engine.truncate_sequence(sequence, prefix.len())?;
            stored.kv.write(engine, sequence)?;
            each(way, &pair, &stored, reference.score(engine, sequence, after)?);
        }
        engine.close_sequence(sequence)?;
    }
    Ok(())
}

impl Sums {
    fn add(&mut self, bytes: usize, kv: &Kv, pair: &Prefix<'_>, score: Score) {
        self.bytes += bytes;
        self.score.kl.extend(score.kl);
        self.score.same_top += score.same_top;
        self.score.nll += score.nll;
        self.score.own_nll += score.own_nll;
        self.errors.resize(kv.layers.len(), [[0.0; 2]; 2]);
        let layers = kv.layers.iter().zip(&pair.own().layers).zip(&pair.base().layers);
        for (((kv, own), base), errors) in layers.zip(&mut self.errors) {
            for (half, [error, square]) in errors.iter_mut().enumerate() {
                let off = distance(&kv[half], &own[half]);
                *error += off;
                *square += own[half].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
                self.error += off;
                self.difference += distance(&base[half], &own[half]);
            }
        }
    }

    fn finish(mut self, codec: Codec, tokens: usize) -> Measured {
        self.score.kl.sort_by(f64::total_cmp);
        let scored = (self.score.kl.len() as f64).max(1.0);
        let root = |[error, square]: [f64; 2]| if square > 0.0 { (error / square).sqrt() } else { 0.0 };
        Measured {
            codec,
            bytes_per_token: self.bytes as f64 / tokens.max(1) as f64,
            same_top: self.score.same_top as f64 / scored,
            nll: [self.score.nll / scored, self.score.own_nll / scored],
            kl: self.score.kl,
            errors: self.errors.into_iter().map(|halves| halves.map(root)).collect(),
            error_left: root([self.error, self.difference]),
        }
    }
}

/// The square of the distance.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// What a token takes unshared, as f16.
#[must_use]
pub fn f16_bytes_per_token(engine: &Engine) -> usize {
    2 * 2 * engine.config().layers * fit::width(engine.config())
}
