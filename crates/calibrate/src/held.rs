//! What an engine holds of one prefix for several models, each with a budget, and what they then say: the sharing as it runs,
//! through the KV manager, the kernels and the encoder, not codec by codec.

use std::time::Instant;

use interleaf_runtime::{Engine, PageElement};

use crate::kv::feed;
use crate::score::Reference;
use crate::{CalibrateError, CalibrateError::Windows};

/// An adapter that reads on after the prefix.
#[derive(Debug, Clone)]
pub struct Reader {
    /// The adapter's name.
    pub adapter: String,
    /// What follows the prefix for it. All but the first are scored: what precedes the first is part of the prefix.
    pub continuation: Vec<u32>,
}

/// One prefix.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Whole chunks of tokens.
    pub prefix: Vec<u32>,
    /// Who shares it with the base.
    pub readers: Vec<Reader>,
}

/// What calls allow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budgets {
    /// The base's calls: its pages are what others' are decoded over.
    pub base: f32,
    /// The adapters'.
    pub adapters: f32,
    /// Whether there is time after every call, in which its pages may go to rest.
    pub is_idle: bool,
}

/// What was held and said within some budgets.
#[derive(Debug, Clone)]
pub struct Held {
    /// Bytes of pages in the pool once everybody has read the prefix, rounding included.
    pub bytes: u64,
    /// Of them those of the base.
    pub base_bytes: u64,
    /// Beside the pool, what calibrated pages are decoded with.
    pub basis_bytes: u64,
    /// By codec.
    pub by_codec: Vec<(String, u64)>,
    /// What it took to compute the prefix, of the readers' mean, and to open what was left of it, in seconds.
    pub seconds: [f64; 2],
    /// In the order of [`Shared::readers`].
    pub readers: Vec<Outcome>,
}

/// What became of one reader.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Bytes of its own pages, those that it shares not counted.
    pub bytes: u64,
    /// What the engine says that reading them costs at most, in nats.
    pub estimated: f64,
    /// The divergence of each scored position from the outputs over its own exact pages, in nats.
    pub kl: Vec<f64>,
    /// Positions whose most likely token is the same.
    pub same_top: usize,
}

impl Outcome {
    /// The mean divergence in nats.
    #[must_use]
    pub fn kl_mean(&self) -> f64 {
        self.kl.iter().sum::<f64>() / (self.kl.len() as f64).max(1.0)
    }
}

/// Bytes of the prefix's pages in f16 for each model on its own, the base among them.
#[must_use]
pub fn unshared_bytes(engine: &Engine, shared: &Shared) -> u64 {
    let config = engine.config();
    let width = config.kv_heads * config.head_dim;
    let token = 2 * config.layers * PageElement::F16.bytes(width);
    ((shared.readers.len() + 1) * shared.prefix.len() * token) as u64
}

/// Lets the base and then every reader compute the prefix and close it, and every reader read on over what is left of it; once
/// for each of the budgets, from an empty pool: the engine's is replaced by one with room for that, and its sequences are
/// closed. The engine must keep prefixes and have the readers' adapters registered.
///
/// # Errors
/// If the prefix is not of whole chunks, a continuation is too short, an adapter reads twice, or the engine fails.
pub fn hold(
    engine: &mut Engine,
    shared: &Shared,
    budgets: &[Budgets],
    done: &mut dyn FnMut(),
) -> Result<Vec<Held>, CalibrateError> {
    check(shared)?;
    let longest = shared.readers.iter().map(|reader| reader.continuation.len()).max().unwrap_or(0);
    let length = shared.prefix.len() + longest;
    let room = shared.readers.len() + 2;
    engine.reserve_kv(room, length)?;
    let references = shared.readers.iter().map(|reader| {
        let sequence = engine.open_sequence(Some(&reader.adapter), &shared.prefix)?;
        feed(engine, sequence, &shared.prefix)?;
        let reference = Reference::new(engine, sequence, &reader.continuation)?;
        engine.close_sequence(sequence)?;
        Ok(reference)
    });
    let references: Vec<Reference> = references.collect::<Result<_, CalibrateError>>()?;
    let mut all = Vec::with_capacity(budgets.len());
    for budget in budgets {
        // From an empty pool.
        engine.reserve_kv(room, length)?;
        let (base_bytes, _) = compute(engine, None, &shared.prefix, budget.base, budget.is_idle)?;
        let mut before = base_bytes;
        let mut bytes = Vec::with_capacity(shared.readers.len());
        let mut seconds = [0.0; 2];
        for reader in &shared.readers {
            let who = Some(reader.adapter.as_str());
            let (after, took) = compute(engine, who, &shared.prefix, budget.adapters, budget.is_idle)?;
            seconds[0] += took;
            // What it shares may take less than before.
            bytes.push(after.saturating_sub(before));
            before = after;
        }
        let (by_codec, basis_bytes) = (engine.kv_by_codec(), engine.memory().kv_bases);
        let mut readers = Vec::with_capacity(shared.readers.len());
        for ((reader, reference), bytes) in shared.readers.iter().zip(&references).zip(bytes) {
            let tokens = [shared.prefix.as_slice(), &reader.continuation].concat();
            let start = Instant::now();
            let (sequence, reused) =
                engine.resume_sequence(Some(&reader.adapter), &tokens, budget.adapters)?;
            seconds[1] += start.elapsed().as_secs_f64();
            let estimated = f64::from(engine.sequence_drift(sequence)?);
            feed(engine, sequence, &shared.prefix[reused.min(shared.prefix.len())..])?;
            let score = reference.score(engine, sequence, &reader.continuation)?;
            engine.close_sequence(sequence)?;
            readers.push(Outcome { bytes, estimated, kl: score.kl, same_top: score.same_top });
            done();
        }
        let seconds = seconds.map(|seconds| seconds / (readers.len() as f64).max(1.0));
        all.push(Held { bytes: before, base_bytes, basis_bytes, by_codec, seconds, readers });
    }
    Ok(all)
}

/// Computes the prefix and closes it. Returns the bytes of all pages that are kept then, once there was time for what is to
/// rest, and the seconds that computing took.
fn compute(
    engine: &mut Engine,
    adapter: Option<&str>,
    prefix: &[u32],
    budget: f32,
    is_idle: bool,
) -> Result<(u64, f64), CalibrateError> {
    let (sequence, reused) = engine.resume_sequence(adapter, prefix, budget)?;
    let start = Instant::now();
    feed(engine, sequence, &prefix[reused..])?;
    let seconds = start.elapsed().as_secs_f64();
    engine.close_sequence(sequence)?;
    while is_idle && engine.tend(prefix.len())? > 0 {}
    Ok((engine.memory().kv_cached, seconds))
}

fn check(shared: &Shared) -> Result<(), CalibrateError> {
    let refused = |field, expected: &str, found: usize| Windows {
        text: "what is shared".into(),
        field,
        expected: expected.into(),
        found: found.to_string(),
    };
    let prefix = shared.prefix.len();
    if prefix == 0 || !prefix.is_multiple_of(interleaf_contract::CHUNK_TOKENS) {
        return Err(refused("tokens of the prefix", "whole chunks of 16", prefix));
    }
    let mut names: Vec<&str> = shared.readers.iter().map(|reader| reader.adapter.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() < shared.readers.len() {
        return Err(refused("readers", "under an adapter each", shared.readers.len()));
    }
    match shared.readers.iter().map(|reader| reader.continuation.len()).find(|length| *length < 2) {
        Some(length) => Err(refused("tokens of a continuation", "at least 2", length)),
        None => Ok(()),
    }
}
