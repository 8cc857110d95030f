//! Contexts that nobody uses take less under pressure: the chunks that were attended to least lose most (LLMS, arXiv
//! 2403.11805, §3.2). When that is done and how it is measured is here; which chunk gets which width is the KV manager's, and
//! how a page is written in a width the codecs'.

use interleaf_contract::{Bits, CHUNK_TOKENS, PageCodec, PageHalf, PageLoss, PageRecode, PoolGeometry};
use interleaf_kv::{Form, Tolerance};

use crate::forms::{relative, standing_alone};
use crate::{Engine, EngineError, MassSampling};

/// How contexts get narrower.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WidthOptions {
    /// Share of what a context's chunks take at 8 bits, scales included, that they take once they are narrow: LLMS has a half.
    pub ratio: f64,
    /// How many of the newest whole chunks of a context stay exact, at least 2, with which it was measured what the others may
    /// cost; what does not fill a chunk is exact anyway.
    pub newest: usize,
    /// Share of the pool that has to be in use before anything is narrowed: 0 for always.
    pub above: f64,
    /// Of what it is measured how much chunks are attended to.
    pub sampling: MassSampling,
}

impl Default for WidthOptions {
    fn default() -> Self {
        Self { ratio: 0.5, newest: 2, above: 0.7, sampling: MassSampling::default() }
    }
}

impl WidthOptions {
    /// What the KV manager goes by.
    pub(crate) const fn tolerance(&self) -> Tolerance {
        Tolerance { errors: WIDTH_ERRORS, ratio: self.ratio, newest: self.newest }
    }

    /// Whether these can be.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        self.sampling.check()?;
        if self.newest < 2 {
            let (option, found) = ("newest chunks that stay exact", self.newest.to_string());
            return Err(EngineError::InvalidOption { option, expected: "at least 2", found });
        }
        let shares = [
            ("ratio of widths", self.ratio),
            ("share of the pool above which contexts get narrower", self.above),
        ];
        match shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((option, found)) => {
                Err(EngineError::InvalidOption { option, expected: "from 0 to 1", found: found.to_string() })
            }
            None => Ok(()),
        }
    }
}

/// The mean divergence of outputs over contexts whose chunks all have 8, 4 or 2 bits, in nats, as it was measured on a trained
/// model. What counts is how many times as much the narrower ones cost.
pub const WIDTH_ERRORS: [f64; 3] = [3.9e-7, 9.6e-5, 2.9e-3];

/// What the mean divergence of outputs is at most, as a multiple of the squared relative errors of keys and of values, where
/// chunks but the two newest have 4 or 2 bits alone: what the worst of 160 windows had, of two trained models and ten adapters
/// (`interleaf quality --widths`), some four times the mean. Values' errors are shaped ([`PageCodec::Quantised`]) and weigh a twentieth of keys'.
const DIVERGENCES: [f64; 2] = [0.15, 0.0075];

/// How often narrowing is tried in one go where nothing of it is kept.
const MOST_TRIES: usize = 8;

/// The forms that chunks get by their density, for a pool: what each costs at most if all chunks of a context are so.
pub fn forms(pool: &PoolGeometry) -> Vec<Form> {
    let form = |bits, of_element, drift| Form {
        by_density: true,
        ..standing_alone(pool, PageCodec::Quantised(bits), of_element, drift)
    };
    vec![form(Bits::Four, 4, 1.2e-3), form(Bits::Two, 2, 2e-2)]
}

/// A bound on the mean divergence of outputs if all chunks had lost as much as one that got such a form, in nats.
pub fn divergence(pages: &[PageRecode], losses: &[PageLoss]) -> f32 {
    let of = |half: PageHalf| {
        let of_half = pages.iter().zip(losses).filter(move |(page, _)| page.half == half);
        DIVERGENCES[half as usize] * relative(of_half.map(|(_, loss)| loss))
    };
    (of(PageHalf::K) + of(PageHalf::V)) as f32
}

impl Engine {
    /// Narrows contexts, at most so many tokens of them. Returns how many tokens it was tried of; 0 where there is nothing to do.
    pub(crate) fn narrow(&mut self, tokens: usize) -> Result<usize, EngineError> {
        let Some(options) = self.widths else { return Ok(0) };
        let before = self.memory();
        let in_use = (before.kv_in_use + before.kv_cached) as f64;
        if in_use <= options.above * before.backend.kv as f64 {
            return Ok(0);
        }
        // What costs more than was said stays as it is, and is not tried again.
        for _ in 0..MOST_TRIES {
            let moves = self.cache.narrow((tokens / CHUNK_TOKENS).max(1))?;
            let chunks = moves.len();
            if chunks == 0 {
                return Ok(0);
            }
            self.encode_pages(moves)?;
            if self.memory().kv_cached < before.kv_cached {
                return Ok(chunks * CHUNK_TOKENS);
            }
        }
        Ok(0)
    }
}
