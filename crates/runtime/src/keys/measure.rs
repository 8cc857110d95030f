//! What reading keys takes on the device: the attention of one row over a sequence's own pages, in every layer, and nothing
//! else of a step. It reads what is there and writes no page.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interleaf_contract::{
    Batch, CHUNK_TOKENS, ChunkEntry, Op, PageCodec, PageEntry, PageRecode, PageTable, Row, RowKind, RowSet,
    Sequence, Step,
};
use interleaf_kv::SequenceId;

use super::KeyTimes;
use crate::forward::attention_shape;
use crate::{Engine, EngineError};

/// Looks at each way, in turn; the first only warms up.
const LOOKS: usize = 4;

impl Engine {
    /// Measures both ways of reading a sequence's keys in a row of its own, and what it took to decode pages, by the table that it
    /// had before and the one that it has now.
    pub(super) fn measure_keys(
        &mut self,
        id: SequenceId,
        in_place: &PageTable,
        pages: &[PageRecode],
    ) -> Result<KeyTimes, EngineError> {
        let manager = self.cache.manager();
        let materialised = manager.page_table(id)?;
        let chunks = pages.iter().map(|page| page.chunk).collect::<BTreeSet<u32>>().len();
        let whole = manager.tokens(id)? / CHUNK_TOKENS;
        // Of a layer that has no exact page, the pool's first place is as good.
        let none = PageEntry::exact(self.reserved.geometry.element, 0);
        let [in_place, materialised] = [in_place, materialised].map(|table| {
            let mut table = table.clone();
            table.truncate(whole);
            // A row has a place of its own, in an exact page. Nothing is written there, and any numbers will do.
            table.push(self.reserved.geometry.layers, |layer| exact_page(materialised, layer, none));
            table
        });
        let position = u32::try_from(whole * CHUNK_TOKENS).unwrap_or(u32::MAX);
        let mut least = [Duration::MAX; 3];
        for look in 0..LOOKS {
            let times = [
                self.time_attention(&in_place, position)?,
                self.time_attention(&materialised, position)?,
                self.time_recoding(pages)?,
            ];
            for (least, time) in least.iter_mut().zip(times).filter(|_| look > 0) {
                *least = time.min(*least);
            }
        }
        let [in_place, materialised, making] = least;
        Ok(KeyTimes { chunks, in_place, materialised, making })
    }

    /// The attention of a generated token at a position.
    fn time_attention(&mut self, pages: &PageTable, position: u32) -> Result<Duration, EngineError> {
        let config = self.model.config();
        let row = Row { token: 0, position, sequence: 0, adapter: -1, kind: RowKind::Generated };
        let sequences = vec![Sequence { pages: pages.clone() }];
        let mut step = Step::new(Batch { rows: vec![row], sequences, ..Batch::default() })?;
        let width = config.heads * config.head_dim;
        let columns = u32::try_from(width).unwrap_or(u32::MAX);
        let [q, out] = [(); 2].map(|()| step.tensor(RowSet::All, columns));
        // Any will do, as long as not all tokens weigh the same.
        let data: Arc<[f32]> = (0..width).map(|i| (i % 7) as f32 / 8.0 - 0.375).collect();
        step.push(Op::Load { out: q, data });
        for (layer, of) in (0..).zip(&self.resident.layers) {
            step.push(Op::PagedAttention { layer, shape: attention_shape(config, of), q, out });
        }
        let start = Instant::now();
        let ticket = self.backend.submit(step)?;
        self.backend.wait(ticket)?;
        Ok(start.elapsed())
    }

    /// Decodes pages once more into those that have them already.
    fn time_recoding(&mut self, pages: &[PageRecode]) -> Result<Duration, EngineError> {
        self.backend.drain()?;
        let start = Instant::now();
        self.backend.recode_pages(pages)?;
        self.backend.drain()?;
        Ok(start.elapsed())
    }
}

/// A chunk that is read as keys are that a table has exact ones of.
fn exact_page(table: &PageTable, layer: usize, none: PageEntry) -> ChunkEntry {
    let is_exact = |page: &PageEntry| matches!(page.codec, PageCodec::Exact(_));
    let mut pages = table.entries(layer).iter().map(|entry| entry.k);
    let page = pages.find(is_exact).unwrap_or(none);
    ChunkEntry { k: page, v: page }
}
