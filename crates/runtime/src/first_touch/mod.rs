//! An adapter's first touch of a prefix that the base has in the cache: the base's pages are copied and translated where they
//! lie, on the device, and no forward pass is made but over the prefix's last tokens, which the call's own prefill takes with
//! it. Whether that is lawful for a call, and how far, is the manager's to say (`interleaf-kv`), by what the adapter's
//! calibration measured.

mod map;

use std::ops::Range;
use std::sync::Arc;

use interleaf_contract::{Batch, CHUNK_TOKENS, PageRecode, Row, RowKind, Sequence, Step};
use interleaf_kv::{AdapterId, Op, Translation, TranslationWay};
use interleaf_model::{JointCalibration, MeasuredTouch};

use self::map::Model;
pub use self::map::{Map, RANK as TRANSLATION_RANK};
use crate::adapters::Activation;
use crate::{Engine, EngineError, SequenceHandle};

/// A map over all layers that is resident, by which an adapter's pages are predicted from the base's.
#[derive(Debug)]
pub struct TranslationMap(Arc<Map>);

/// What was measured, as an engine chooses by it: for each number of computed tokens the lengths of prefixes. `None` where nothing
/// was.
#[must_use]
pub fn translation(touches: &[MeasuredTouch]) -> Option<Translation> {
    let mut computed: Vec<usize> = touches.iter().map(|touch| touch.computed).collect();
    computed.sort_unstable();
    computed.dedup();
    let way = |computed: usize| {
        let measured = touches.iter().filter(|touch| touch.computed == computed);
        TranslationWay { computed, measured: measured.map(|touch| (touch.prefix, touch.bound)).collect() }
    };
    let ways: Vec<TranslationWay> = computed.into_iter().map(way).collect();
    (!ways.is_empty()).then_some(Translation { ways })
}

impl Engine {
    /// Translates the last chunks of what a sequence has opened, which take effect before any step that is submitted later. Where
    /// the map cannot be had any more the sequence has only the tokens before them.
    pub(crate) fn translate(
        &mut self,
        sequence: SequenceHandle,
        prompt: &[u32],
        moves: &[Op],
    ) -> Result<(), EngineError> {
        let Some(Activation { adapter, .. }) = sequence.activation.filter(|_| !moves.is_empty()) else {
            return Ok(());
        };
        let translated = self.translate_pages(sequence, self.cache.id(adapter), prompt, moves);
        let is_done = matches!(translated, Ok(true));
        moves.iter().for_each(|op| self.cache.copied(*op, is_done));
        translated.map(|_| ())
    }

    /// Returns whether there is a map to do it with.
    fn translate_pages(
        &mut self,
        sequence: SequenceHandle,
        adapter: AdapterId,
        prompt: &[u32],
        moves: &[Op],
    ) -> Result<bool, EngineError> {
        if !self.make_map_resident(adapter)? {
            return Ok(false);
        }
        let manager = self.cache.manager();
        let pages: Vec<PageRecode> = moves.iter().flat_map(|op| manager.copied_pages(op.id)).collect();
        let chunks = pages.iter().map(|page| page.chunk as usize);
        let (Some(first), Some(last)) = (chunks.clone().min(), chunks.max()) else { return Ok(true) };
        self.copy(pages)?;
        let Some(map) = self.calibrated.map_of(adapter) else { return Ok(false) };
        self.run_map(sequence, prompt, first * CHUNK_TOKENS..(last + 1) * CHUNK_TOKENS, &map)?;
        Ok(true)
    }

    /// Translates tokens of a sequence whose exact pages hold the base's keys and values there.
    fn run_map(
        &mut self,
        sequence: SequenceHandle,
        tokens: &[u32],
        positions: Range<usize>,
        map: &Map,
    ) -> Result<(), EngineError> {
        let row = |(position, &token): (usize, &u32)| Row {
            token,
            position: u32::try_from(position).unwrap_or(u32::MAX),
            sequence: 0,
            adapter: -1,
            kind: RowKind::Prompt,
        };
        let all = tokens.iter().enumerate().take(positions.end).skip(positions.start);
        let all: Vec<Row> = all.map(row).collect();
        let pages = self.cache.manager().page_table(sequence.id)?.clone();
        for rows in all.chunks(self.prefill_rows) {
            let sequences = vec![Sequence { pages: pages.clone() }];
            let mut step = Step::new(Batch { rows: rows.to_vec(), sequences, ..Batch::default() })?;
            let (config, embedding) = (self.model.config(), self.resident.embedding);
            map.record(&mut step, &Model { config, embedding, ropes: &self.ropes });
            self.run_to_end(step)?;
        }
        Ok(())
    }

    /// Makes a map over all layers resident, for [`Engine::translate_tokens`]: for measurements. `name` is for messages.
    ///
    /// # Errors
    /// If there is no room, the GPU is suspended, or the device fails.
    pub fn create_map(
        &mut self,
        name: &str,
        joint: &JointCalibration,
    ) -> Result<TranslationMap, EngineError> {
        self.on_device(|engine| {
            let map = Map::new(name, engine.model.config(), joint, &mut *engine.backend)?;
            Ok(TranslationMap(Arc::new(map)))
        })
    }

    /// Translates tokens of a sequence whose pages hold the base's keys and values there, in place: for measurements. `tokens` are
    /// all that it has. Only pages of [`Engine::open_sequence`] are written.
    ///
    /// # Errors
    /// If the sequence is not open or its pages can be found by others, it has not as many tokens, the GPU is suspended, or the
    /// device fails, which takes the map with it.
    pub fn translate_tokens(
        &mut self,
        sequence: SequenceHandle,
        tokens: &[u32],
        positions: Range<usize>,
        map: &TranslationMap,
    ) -> Result<(), EngineError> {
        if self.cache.manager().is_kept(sequence.id)? {
            return Err(EngineError::SharedPages);
        }
        let has = self.cache.manager().tokens(sequence.id)?.min(tokens.len());
        if positions.end > has {
            return Err(EngineError::NoSuchPosition { position: positions.end - 1, tokens: has });
        }
        self.on_device(|engine| engine.run_map(sequence, tokens, positions.clone(), &map.0))
    }

    /// Gives a map back.
    ///
    /// # Errors
    /// If the backend does not know it: it went with the one that had it.
    pub fn drop_map(&mut self, map: TranslationMap) -> Result<(), EngineError> {
        Ok(map.0.drop_from(&mut *self.backend)?)
    }

    /// Makes an adapter's map resident, if it is not and can be had.
    fn make_map_resident(&mut self, adapter: AdapterId) -> Result<bool, EngineError> {
        if self.calibrated.map_of(adapter).is_some() {
            return Ok(true);
        }
        let Some(joint) = self.with_joint_map(adapter, |_, joint| Ok(joint))? else { return Ok(false) };
        let name = format!("{adapter:?}");
        let map = Map::new(&name, self.model.config(), &joint, &mut *self.backend)?;
        self.calibrated.set_map(adapter, Arc::new(map));
        Ok(true)
    }
}
