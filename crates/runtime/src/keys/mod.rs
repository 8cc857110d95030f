//! Keys of encoded chunks are read in one of two ways: where they are, decoded at every read; or as exact pages that they are
//! decoded into once, for as long as a call reads them (`interleaf-kv` has the room for that, and gives it up for anything
//! else). Which way takes less time depends on the codec, the device, and how many tokens the call may generate: it is measured
//! on the device, with the call's own pages, and what was measured is kept as long as the engine is open.

mod choice;
mod measure;

use std::collections::{BTreeSet, HashMap};

use interleaf_contract::{BackendError, PageCodec, PageRecode};
use interleaf_kv::{Op, SequenceId};

pub use self::choice::KeyTimes;
use self::choice::{LEAST_STEPS, pays};
use crate::{Engine, EngineError};

/// How the keys of encoded chunks are read. Of exact chunks there is one way, and of a call that allows no loss nothing is
/// encoded.
///
/// A key that is materialised is what it decodes to, rounded to the pool's element once more: in pages of half precision by at
/// most half a unit in its last place, 2⁻¹¹ of it, and in single precision not at all. What chunks are said to lose was measured
/// against exact pages without that; it adds a relative error of at most 2⁻²² squared, which is 6·10⁻⁸ of a nat by the bound
/// that divergences are estimated with. So the bits of a lossy answer may depend on the way its keys are read, which under
/// [`KeyPath::Measured`] depends on times and on the room that is free; pinned to the other two, only on that room for
/// [`KeyPath::Materialised`] and on nothing for [`KeyPath::InPlace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyPath {
    /// As exact pages where that was measured to pay for the tokens that a call may generate, else in place.
    /// [`Engine::resume_sequence`] does not know how many these are: in place.
    #[default]
    Measured,
    /// Where they are.
    InPlace,
    /// As exact pages, as far as there is free room for these.
    Materialised,
}

/// Why the keys of encoded chunks were read as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyReason {
    /// Nothing encoded was found.
    #[default]
    NothingEncoded,
    /// The engine's options say how.
    Pinned,
    /// Too few tokens were asked for to pay for a look at the times.
    FewTokens,
    /// There was no free room for exact keys.
    NoRoom,
    /// By the times of [`KeyReads::times`].
    Measured,
}

impl KeyReason {
    /// The name used in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NothingEncoded => "nothing_encoded",
            Self::Pinned => "pinned",
            Self::FewTokens => "few_tokens",
            Self::NoRoom => "no_room",
            Self::Measured => "measured",
        }
    }
}

/// How the keys of the encoded chunks that a call found were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyReads {
    /// Chunks whose keys were read where they are.
    pub in_place: usize,
    /// Chunks whose keys were read as exact pages.
    pub materialised: usize,
    /// Of these, how many were read in place before the end, because the room was needed.
    pub given_up: usize,
    /// Bytes that all exact keys beside encoded ones held when the call began, other calls' included.
    pub bytes: u64,
    /// Why.
    pub reason: KeyReason,
    /// What was measured of chunks like these, by this call or an earlier one.
    pub times: Option<KeyTimes>,
}

/// What times are kept by: reading one chunk takes the same in contexts of about one size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    backend: &'static str,
    /// The codecs that keys are read in.
    codecs: BTreeSet<PageCodec>,
    /// The binary logarithm of the number of chunks.
    size: u32,
}

/// How an engine reads keys, and what it knows of that.
#[derive(Debug, Default)]
pub struct Keys {
    path: KeyPath,
    known: HashMap<Kind, KeyTimes>,
}

impl Keys {
    /// Nothing is known yet.
    pub fn new(path: KeyPath) -> Self {
        Self { path, known: HashMap::new() }
    }
}

impl Engine {
    /// Chooses how a sequence that was just opened reads the keys of the encoded chunks that it has found, for a call that goes
    /// on for so many tokens at most, if that is known, and makes it so. Takes effect before any step that is submitted later.
    pub(crate) fn choose_keys(
        &mut self,
        id: SequenceId,
        tokens: Option<usize>,
    ) -> Result<KeyReads, EngineError> {
        let (encoded, _) = self.cache.manager().keys_read(id)?;
        if encoded == 0 {
            return Ok(KeyReads::default());
        }
        let (reason, times) = match (self.keys.path, tokens) {
            (KeyPath::InPlace, _) => (KeyReason::Pinned, None),
            (KeyPath::Materialised, _) => {
                self.materialise_keys(id)?;
                (KeyReason::Pinned, None)
            }
            (KeyPath::Measured, Some(tokens)) if tokens >= LEAST_STEPS => {
                self.choose_by_time(id, encoded, tokens)?
            }
            (KeyPath::Measured, _) => (KeyReason::FewTokens, None),
        };
        let (in_place, materialised) = self.cache.manager().keys_read(id)?;
        let bytes = self.cache.manager().usage().keys;
        Ok(KeyReads { in_place, materialised, given_up: 0, bytes, reason, times })
    }

    fn choose_by_time(
        &mut self,
        id: SequenceId,
        encoded: usize,
        tokens: usize,
    ) -> Result<(KeyReason, Option<KeyTimes>), EngineError> {
        let kind = self.kind_of(id, encoded)?;
        let known = self.keys.known.get(&kind).copied();
        if known.is_some_and(|times| !pays(&times, tokens)) {
            return Ok((KeyReason::Measured, known));
        }
        let in_place = self.cache.manager().page_table(id)?.clone();
        let pages = self.materialise_keys(id)?;
        if self.cache.manager().keys_read(id)?.1 == 0 {
            return Ok((KeyReason::NoRoom, known));
        }
        if known.is_some() || pages.is_empty() {
            // What others have had made costs nothing more.
            return Ok((KeyReason::Measured, known));
        }
        let times = self.measure_keys(id, &in_place, &pages)?;
        tracing::info!(?kind, ?times, "keys of encoded pages, in place and materialised");
        self.keys.known.insert(kind, times);
        if !pays(&times, tokens) {
            self.cache.read_keys_in_place(id)?;
        }
        Ok((KeyReason::Measured, Some(times)))
    }

    fn kind_of(&self, id: SequenceId, encoded: usize) -> Result<Kind, EngineError> {
        let table = self.cache.manager().page_table(id)?;
        let codecs = (0..self.reserved.geometry.layers).flat_map(|layer| table.entries(layer));
        let codecs = codecs.map(|entry| entry.k.codec);
        let codecs = codecs.filter(|codec| !matches!(codec, PageCodec::Exact(_))).collect();
        Ok(Kind { backend: self.backend.info().name, codecs, size: encoded.max(1).ilog2() })
    }

    /// A sequence reads exact keys from now on, as far as there is room for them. Returns what was decoded for that.
    fn materialise_keys(&mut self, id: SequenceId) -> Result<Vec<PageRecode>, EngineError> {
        let moves = self.cache.materialise_keys(id)?;
        let manager = self.cache.manager();
        let pages: Vec<PageRecode> = moves.iter().flat_map(|op| manager.recodes(op.id)).collect();
        let decoded: Result<(), BackendError> = self.backend.recode_pages(&pages);
        moves.iter().for_each(|op: &Op| self.cache.copied(*op, decoded.is_ok()));
        decoded?;
        Ok(pages)
    }
}
