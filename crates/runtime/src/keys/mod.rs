//! Keys of encoded chunks are read in one of two ways: where they are, decoded at every read; or as exact pages that they are
//! decoded into once, for as long as a call reads them (`interleaf-kv` has the room for that, and gives it up for anything
//! else). Which way takes less time depends on the codec, the device, how many tokens the call may generate, and who reads
//! beside it: it is measured on the device, with the call's own pages and one row, and what was measured of whole contexts is
//! kept as long as the engine is open. Where rows of several calls decode an anchor once, what is cheap to decode over it is left.

mod choice;
mod measure;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use interleaf_contract::{BackendError, PageCodec, PageRecode};
use interleaf_kv::{KeySet, Op, SequenceId};

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
/// [`KeyPath::Measured`] depends on times, on who else reads over the same chunks of the base, and on the room that is free;
/// pinned to the other two, only on that room for [`KeyPath::Materialised`] and on nothing for [`KeyPath::InPlace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyPath {
    /// As exact pages where that was measured to pay for the tokens that a call may generate, or where others have had them made,
    /// else in place; and in place where rows of several sequences are differences in codes from the same pages, which these
    /// decode once together. [`Engine::resume_sequence`] does not know how many tokens there will be: in place.
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
    /// There was no free room for exact keys, or for more than others have had made.
    NoRoom,
    /// The anchor is read once for several rows: another open sequence reads it, or chunks over it, and what this one's keys are
    /// over it takes little to decode.
    Shared,
    /// Others have had exact keys made already; to read them too costs nothing.
    AlreadyThere,
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
            Self::Shared => "shared",
            Self::AlreadyThere => "already_there",
            Self::Measured => "measured",
        }
    }
}

/// How the keys of the encoded chunks that a call found were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyReads {
    /// Chunks whose keys were read where they are.
    pub in_place: usize,
    /// Chunks whose keys were read as exact pages, in all layers or in those where decoding them is dear.
    pub materialised: usize,
    /// Of these, how many were read in place before the end: the room was needed, or another call came to read over the same
    /// anchor.
    pub given_up: usize,
    /// Bytes that all exact keys beside encoded ones held when the call began, other calls' included.
    pub bytes: u64,
    /// Why.
    pub reason: KeyReason,
    /// What was measured of chunks like these, by this call or an earlier one.
    pub times: Option<KeyTimes>,
}

/// What times are kept by: pages of about as many numbers in the same codecs take about as long.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    backend: &'static str,
    /// By codec, pages of keys that are read in place, layers times chunks, and those of them that would be materialised: of each
    /// number the digits that it has in binary, 0 for none.
    pages: BTreeMap<PageCodec, [u32; 2]>,
}

impl Kind {
    fn of(backend: &'static str, found: &BTreeMap<PageCodec, [usize; 2]>) -> Self {
        let size = |count: usize| count.checked_ilog2().map_or(0, |log| log + 1);
        Self { backend, pages: found.iter().map(|(codec, counts)| (*codec, counts.map(size))).collect() }
    }
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
    /// Chooses how a sequence reads the keys of the encoded chunks that it has found, for a call that goes on for so many tokens
    /// at most, if that is known, and makes it so. Takes effect before any step that is submitted later. Who is to run beside it
    /// is open already, or has this sequence leave the keys that they share.
    pub(crate) fn choose_keys(
        &mut self,
        id: SequenceId,
        tokens: Option<usize>,
    ) -> Result<KeyReads, EngineError> {
        if self.keys.path == KeyPath::Measured {
            // Others may have chosen while they had an anchor for themselves.
            self.cache.share_anchors(id)?;
        }
        let (encoded, _) = self.cache.manager().keys_read(id)?;
        if encoded == 0 {
            return Ok(KeyReads::default());
        }
        let (reason, times) = match (self.keys.path, tokens) {
            (KeyPath::InPlace, _) => (KeyReason::Pinned, None),
            (KeyPath::Materialised, _) => {
                self.materialise_keys(id, KeySet::All)?;
                (KeyReason::Pinned, None)
            }
            (KeyPath::Measured, Some(tokens)) => self.choose_by_time(id, tokens)?,
            (KeyPath::Measured, None) => (KeyReason::FewTokens, None),
        };
        let (in_place, materialised) = self.cache.manager().keys_read(id)?;
        let bytes = self.cache.manager().usage().keys;
        Ok(KeyReads { in_place, materialised, given_up: 0, bytes, reason, times })
    }

    fn choose_by_time(
        &mut self,
        id: SequenceId,
        tokens: usize,
    ) -> Result<(KeyReason, Option<KeyTimes>), EngineError> {
        const SET: KeySet = KeySet::Apart;
        self.cache.join_keys(id, SET)?;
        let manager = self.cache.manager();
        let (joined, found) = (manager.keys_read(id)?.1, manager.keys_in_place(id, SET)?);
        let wanted: usize = found.values().map(|[_, wanted]| wanted).sum();
        if wanted == 0 {
            return Ok((if joined > 0 { KeyReason::AlreadyThere } else { KeyReason::Shared }, None));
        }
        if tokens < LEAST_STEPS {
            return Ok((KeyReason::FewTokens, None));
        }
        let kind = Kind::of(self.backend.info().name, &found);
        let known = self.keys.known.get(&kind).copied();
        if known.is_some_and(|times| !pays(&times, tokens)) {
            return Ok((KeyReason::Measured, known));
        }
        let before = manager.page_table(id)?.clone();
        let pages = self.materialise_keys(id, SET)?;
        if pages.is_empty() {
            return Ok((KeyReason::NoRoom, known));
        }
        if known.is_some() {
            return Ok((KeyReason::Measured, known));
        }
        let times = self.measure_keys(id, &before, &pages)?;
        tracing::info!(?kind, ?times, "keys of encoded pages, in place and materialised");
        if joined == 0 && pages.len() == wanted {
            // Of a part beside others' keys, or without room for the rest, they say less than the kind does.
            self.keys.known.insert(kind, times);
        }
        if !pays(&times, tokens) {
            self.cache.read_keys_in_place(id)?;
            self.cache.join_keys(id, SET)?;
        }
        Ok((KeyReason::Measured, Some(times)))
    }

    /// A sequence reads exact keys from now on, as far as there is room for them. Returns what was decoded for that.
    fn materialise_keys(&mut self, id: SequenceId, set: KeySet) -> Result<Vec<PageRecode>, EngineError> {
        let moves = self.cache.materialise_keys(id, set)?;
        let manager = self.cache.manager();
        let pages: Vec<PageRecode> = moves.iter().flat_map(|op| manager.recodes(op.id)).collect();
        let decoded: Result<(), BackendError> = self.backend.recode_pages(&pages);
        moves.iter().for_each(|op: &Op| self.cache.copied(*op, decoded.is_ok()));
        decoded?;
        Ok(pages)
    }
}
