//! What codecs cost: an adapter reads on over its own cache of a prefix as each codec gives it back, token by token as they
//! were written, and its outputs are held against those over its own exact cache. What it computes on the way stays exact.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_model::{Calibration, WeightFormat};
use interleaf_runtime::Engine;

use crate::kv::{self, Kv};
use crate::prefix::{self, Means, Prefix, Stored};
use crate::products::{Pass, Products};
use crate::score::{Divergence, Reference, Score};
use crate::turns::Turns;
use crate::{Anchor, CalibrateError, Codec, Windows, fit};

/// Where windows are parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Tokens of the prefix, whose cache is stored.
    pub prefix: usize,
    /// Tokens after it, of which all but the first are scored: what precedes the first is still the exact cache's.
    pub continuation: usize,
}

/// Whose cache is measured, and what is known for it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The adapter, by its name in the engine.
    pub adapter: &'a str,
    /// What codecs that need a calibration are measured with.
    pub calibration: Option<&'a Calibration>,
    /// What [`Codec::OwnProducts`] is measured with.
    pub products: Option<&'a Products>,
    /// How the base's pages are stored. Differences are taken from what they decode to.
    pub anchor: Anchor,
}

impl<'a> Subject<'a> {
    /// An adapter with its calibration alone, over a base as f16 numbers.
    #[must_use]
    pub fn calibrated(adapter: &'a str, calibration: &'a Calibration) -> Self {
        Self { adapter, calibration: Some(calibration), products: None, anchor: Anchor::F16 }
    }
}

/// What one codec cost.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The codec.
    pub codec: Codec,
    /// Bytes that it stores for a token on top of the base's cache.
    pub bytes_per_token: f64,
    /// Bytes of the base's cache for a token, where it is read.
    pub base_bytes_per_token: f64,
    /// Bytes of what all pages of this adapter are decoded with ([`Codec::basis_bytes`]).
    pub basis_bytes: usize,
    /// From the outputs over the exact cache.
    pub divergence: Divergence,
    /// By layer, the root of the squared error of keys and of values over that of the adapter's own.
    pub errors: Vec<[f64; 2]>,
    /// The same of keys and values of all layers together, over the difference from the base's.
    pub error_left: f64,
}

impl Measured {
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
    base_bytes: usize,
    score: Score,
    /// By layer, of keys and of values: squared error, and square of the adapter's own.
    errors: Vec<[[f64; 2]; 2]>,
    error: f64,
    difference: f64,
}

/// Measures codecs on windows, each under the subject's adapter. The engine must keep its pages as f32 and have room for one
/// sequence of such a window. `done` is called after each codec of each window.
///
/// # Errors
/// If a window is too short, a codec needs a calibration or products that are not given, or the engine fails.
pub fn measure(
    engine: &mut Engine,
    subject: Subject<'_>,
    windows: &Windows,
    parts: Parts,
    codecs: &[Codec],
    done: &mut dyn FnMut(),
) -> Result<Vec<Measured>, CalibrateError> {
    let mut sums: Vec<Sums> = codecs.iter().map(|_| Sums::default()).collect();
    let store = |prefix: &Prefix<'_>, codec: usize| prefix.store(codecs[codec]);
    each_way(engine, subject, windows, parts, codecs.len(), store, |codec, seen| {
        sums[codec].base_bytes += if codecs[codec].is_over_base() { seen.base_bytes } else { 0 };
        sums[codec].add(seen);
        done();
    })?;
    let tokens = windows.rows.len() * parts.prefix;
    let finish = |(codec, sums): (&Codec, Sums)| {
        let basis_bytes = subject.calibration.map_or(0, |calibration| codec.basis_bytes(calibration));
        sums.finish(*codec, tokens, basis_bytes)
    };
    Ok(codecs.iter().zip(sums).map(finish).collect())
}

/// What one way of storing did to a window.
#[derive(Debug)]
pub struct Seen<'a> {
    /// What was stored.
    pub prefix: &'a Prefix<'a>,
    /// Bytes of the base's cache.
    pub base_bytes: usize,
    /// What became of the adapter's.
    pub stored: Stored,
    /// What it then said.
    pub score: Score,
}

/// Lets an adapter read on, in each window, over what each of several ways to store makes of its cache of the prefix.
/// `store` puts a prefix through one, and `each` is told what came of it.
pub fn each_way(
    engine: &mut Engine,
    subject: Subject<'_>,
    windows: &Windows,
    parts: Parts,
    ways: usize,
    store: impl Fn(&Prefix<'_>, usize) -> Result<Stored, CalibrateError>,
    mut each: impl FnMut(usize, Seen<'_>),
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
    let Subject { adapter, calibration, products, anchor } = subject;
    let means = Means { adapter, calibration, embedding: &embedding, turns: &turns };
    for row in &windows.rows {
        let (before, after) = row[..length].split_at(parts.prefix);
        let exact = Kv::compute(engine, None, before)?;
        let base = prefix::anchored(anchor, engine.config(), &exact);
        let sequence = engine.open_sequence(Some(adapter), row)?;
        let pass = match products {
            Some(products) => {
                let inputs = kv::feed_tapped(engine, sequence, before)?;
                Some(Pass { products, inputs, from: sequence.adapter_from() })
            }
            None => {
                kv::feed(engine, sequence, before)?;
                None
            }
        };
        let own = Kv::read(engine, sequence, before.len())?;
        let reference = Reference::new(engine, sequence, after)?;
        let pair = Prefix::new(engine.config(), before, [base.kv, own], pass, means);
        for way in 0..ways {
            let stored = store(&pair, way)?;
            engine.truncate_sequence(sequence, before.len())?;
            stored.kv.write(engine, sequence)?;
            let score = reference.score(engine, sequence, after)?;
            each(way, Seen { prefix: &pair, base_bytes: base.bytes, stored, score });
        }
        engine.close_sequence(sequence)?;
    }
    Ok(())
}

impl Sums {
    fn add(&mut self, seen: Seen<'_>) {
        let Seen { prefix: pair, stored: Stored { kv, bytes }, score, .. } = seen;
        self.bytes += bytes;
        self.score.add(score);
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

    fn finish(self, codec: Codec, tokens: usize, basis_bytes: usize) -> Measured {
        let root = |[error, square]: [f64; 2]| if square > 0.0 { (error / square).sqrt() } else { 0.0 };
        Measured {
            codec,
            bytes_per_token: self.bytes as f64 / tokens.max(1) as f64,
            base_bytes_per_token: self.base_bytes as f64 / tokens.max(1) as f64,
            basis_bytes,
            divergence: self.score.finish(),
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
