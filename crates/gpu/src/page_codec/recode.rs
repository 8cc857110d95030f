//! Stores pages in other codecs: as numbers first, then what steps and coefficients they have, then the words of the pages.
//! Codes are the reference's but where a device divides with less care than IEEE: one off at ties, and of two ways to clip
//! a group that are as good, either. Behind such a tie shaped codes of the same channel may differ, too, but not what they add
//! up to.

use interleaf_contract::{
    BackendError, CHUNK_TOKENS, GROUP_CHANNELS, PAGE_UNIT, PageEntry, PageRecode, PoolGeometry, RopeId,
};

use super::{Bound, Stage};
use crate::command::{Recorder, word};
use crate::decide::WORKGROUP;
use crate::pages::PagePool;
use crate::parts::Parts;
use crate::step::Held;
use crate::weights::Weights;

/// Bytes of numbers that pages are stored by way of at a time, unless a page needs more.
const SCRATCH_BYTES: u64 = 4 << 20;

/// `NONE` of the kernels.
const NONE: u32 = u32::MAX;

/// What pages of one dispatch have in common: their layer, and the tables that keys are turned by.
type Together = (u32, [Option<RopeId>; 2]);

/// Records pages that have been checked.
pub(crate) fn recode(
    weights: &Weights,
    held: Held<'_>,
    pool: &PagePool,
    recodes: &[PageRecode],
    recorder: &mut Recorder<'_>,
) -> Result<(), BackendError> {
    let rope = |entry: PageEntry, half| Parts::of(entry, half, held.constants).map(|(_, rope)| rope);
    let mut together: Vec<(Together, PageRecode)> = Vec::new();
    for &recode in recodes {
        let PageRecode { layer, half, from, to, .. } = recode;
        together.push(((layer, [rope(from, half)?, rope(to, half)?]), recode));
    }
    together.sort_by_key(|((layer, ropes), _)| (*layer, ropes.map(|rope| rope.map(|rope| rope.0))));
    for group in together.chunk_by(|(a, _), (b, _)| a == b) {
        let page = most_scratch(&pool.geometry, group.iter().map(|(_, recode)| *recode));
        let most = (SCRATCH_BYTES.min(recorder.gpu.caps.binding_bytes) / page).max(1);
        let scratch = recorder.scratch.take(recorder.gpu, page * most.min(group.len() as u64))?;
        for round in group.chunks(usize::try_from(most).unwrap_or(usize::MAX)) {
            let on = Bound { weights, held, pool, scratch: &scratch };
            Round { on, page }.record(round, recorder)?;
        }
        recorder.scratch.give(&scratch);
    }
    Ok(())
}

/// Bytes of scratch that each of some pages has: its numbers, its anchor's, and its steps and coefficients.
fn most_scratch(pool: &PoolGeometry, recodes: impl Iterator<Item = PageRecode>) -> u64 {
    let steps = |recode: PageRecode| {
        let codec = recode.to.codec;
        // Either of these has the most: a step for each group of a token or channel, or coefficients with theirs.
        let groups = CHUNK_TOKENS * pool.kv_heads * pool.head_dim.div_ceil(GROUP_CHANNELS);
        let channels = pool.kv_heads * (pool.head_dim + 1);
        groups.max(channels).max(CHUNK_TOKENS * 2 * codec.constant_rows())
    };
    let most = recodes.map(steps).max().unwrap_or(0);
    ((2 * pool.page_elements() + most) * size_of::<f32>()) as u64
}

/// Pages that are stored by the same dispatches.
struct Round<'a> {
    on: Bound<'a>,
    /// Bytes of scratch for each page.
    page: u64,
}

impl Round<'_> {
    fn record(
        &self,
        recodes: &[(Together, PageRecode)],
        recorder: &mut Recorder<'_>,
    ) -> Result<(), BackendError> {
        let Some(&((layer, [from_rope, to_rope]), _)) = recodes.first() else { return Ok(()) };
        let Bound { pool: &PagePool { geometry, .. }, held, .. } = self.on;
        let elements = word(geometry.page_elements());
        let (mut read, mut written) = (Vec::new(), Vec::new());
        let mut longest = 0;
        for ((_, recode), at) in recodes.iter().zip((0u32..).step_by((self.page / 4) as usize)) {
            let PageRecode { half, chunk, from, to, .. } = *recode;
            let position = chunk * CHUNK_TOKENS as u32;
            let values = |entry: PageEntry, at: u32| -> Result<_, BackendError> {
                let (parts, _) = Parts::of(entry, half, held.constants)?;
                Ok(parts.words().into_iter().chain([position, at]))
            };
            read.extend(values(from, at)?);
            if let Some(anchor) = to.anchor {
                read.extend(values(anchor.into(), at + elements)?);
            }
            let page = geometry.address(layer, half, to);
            let words = page.units * (PAGE_UNIT / 4) as u32;
            longest = words.max(longest);
            let anchor_at = if to.anchor.is_some() { at + elements } else { NONE };
            let (parts, _) = Parts::of(to, half, held.constants)?;
            written.extend(parts.page_words());
            written.extend([position, words, at, anchor_at, at + 2 * elements]);
        }
        let heads = word(geometry.kv_heads);
        let rows = heads * CHUNK_TOKENS as u32;
        self.on.stage(Stage::Decode, &read, rows, (layer, from_rope), recorder)?;
        self.on.stage(Stage::Measure, &written, heads, (layer, to_rope), recorder)?;
        self.on.stage(Stage::Encode, &written, longest.div_ceil(WORKGROUP), (layer, None), recorder)
    }
}
