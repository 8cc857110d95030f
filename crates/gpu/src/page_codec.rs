//! `page_codec`: records the kernels that store pages in other codecs: as numbers first, then what steps and coefficients
//! they have, then the words of the pages. What the kernels do is in `shaders/page_codec_*.wgsl`. Codes are the
//! reference's but where a device divides with less care than IEEE: one off at ties, and of two ways to clip a group that
//! are as good, either.

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{
    BackendError, CHUNK_TOKENS, GROUP_CHANNELS, PAGE_UNIT, PageElement, PageEntry, PageRecode, PoolGeometry,
    RopeId,
};

use crate::command::{Place, Recorder, word};
use crate::cost::Loads;
use crate::decide::{Half, WORKGROUP};
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::pages::{PagePool, row_words};
use crate::parts::Parts;
use crate::step::Held;
use crate::weights::Weights;

/// Bytes of numbers that pages are stored by way of at a time, unless a page needs more.
const SCRATCH_BYTES: u64 = 4 << 20;

/// `NONE` of the kernels.
const NONE: u32 = u32::MAX;

/// The kernels of this stem, for pages of heads that are so long, in a pool of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    stage: Stage,
    element: PageElement,
    head_dim: u32,
    half: Half,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Decode,
    Measure,
    Encode,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    items: u32,
    items_at: u32,
    directory_at: u32,
    kv_heads: u32,
    groups: u32,
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        use Access::{Read, Write};
        let Self { stage, element, head_dim, half } = self;
        let (name, codec, bindings): (_, _, &[Access]) = match stage {
            Stage::Decode => {
                ("page_codec_decode", format!("coded_{element}"), &[Write, Read, Read, Read, Read, Read])
            }
            Stage::Measure => {
                ("page_codec_measure", format!("coded_{element}"), &[Write, Read, Read, Read, Read, Read])
            }
            Stage::Encode => ("page_codec_encode", element.to_string(), &[Read, Write, Read, Read]),
        };
        let numbers = [
            ("WORKGROUP", WORKGROUP),
            ("HEAD_DIM", head_dim),
            ("QUADS", head_dim.div_ceil(4)),
            ("CHUNK", CHUNK_TOKENS as u32),
            ("GROUP", GROUP_CHANNELS as u32),
            ("ROW_WORDS", row_words(element, head_dim)),
            ("WORDS", 4),
            ("CONSTANTS", 5),
            ("TABLE", 6),
        ];
        let mut constants: Vec<(&str, String)> = numbers.map(|(n, v)| (n, v.to_string())).into();
        // MobiLoRA's steps, by its ε.
        for (name, epsilon) in [("STEP_FAR", 1e-2f64), ("STEP_MIDDLE", 1e-3), ("STEP_NEAR", 1e-4)] {
            constants.push((name, format!("{:?}", (2.0 * epsilon.ln_1p()) as f32)));
        }
        constants.push(("CODEC", codec));
        let narrow = if head_dim.is_multiple_of(4) { "" } else { "_narrow" };
        constants.push(("NARROW", narrow.to_owned()));
        constants.push(("HALF", half.name().to_owned()));
        Template { name, constants, bindings, params: size_of::<Params>(), needs: Needs::Nothing }
    }

    /// Variants of every element and shape of head, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for stage in [Stage::Decode, Stage::Measure, Stage::Encode] {
            for element in [PageElement::F16, PageElement::F32] {
                for half in Half::ALL {
                    all.extend([2, 64, 66, 256].map(|head_dim| Self { stage, element, head_dim, half }));
                }
            }
        }
        all
    }
}

/// What pages of one dispatch have in common: their layer, and the tables that keys are turned by.
type Together = (u32, [Option<RopeId>; 2]);

/// Records pages that have been checked.
pub(crate) fn record(
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
            Round { weights, held, pool, scratch: &scratch, page }.record(round, recorder)?;
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
    weights: &'a Weights,
    held: Held<'a>,
    pool: &'a PagePool,
    scratch: &'a wgpu::Buffer,
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
        let elements = word(self.pool.geometry.page_elements());
        let (mut read, mut written) = (Vec::new(), Vec::new());
        let mut longest = 0;
        for ((_, recode), at) in recodes.iter().zip((0u32..).step_by((self.page / 4) as usize)) {
            let PageRecode { half, chunk, from, to, .. } = *recode;
            let position = chunk * CHUNK_TOKENS as u32;
            let values = |entry: PageEntry, at: u32| -> Result<_, BackendError> {
                let (parts, _) = Parts::of(entry, half, self.held.constants)?;
                Ok(parts.words().into_iter().chain([position, at]))
            };
            read.extend(values(from, at)?);
            if let Some(anchor) = to.anchor {
                read.extend(values(anchor.into(), at + elements)?);
            }
            let page = self.pool.geometry.address(layer, half, to);
            let words = page.units * (PAGE_UNIT / 4) as u32;
            longest = words.max(longest);
            let anchor_at = if to.anchor.is_some() { at + elements } else { NONE };
            let (parts, _) = Parts::of(to, half, self.held.constants)?;
            written.extend(parts.page_words());
            written.extend([position, words, at, anchor_at, at + 2 * elements]);
        }
        let heads = word(self.pool.geometry.kv_heads);
        let rows = heads * CHUNK_TOKENS as u32;
        self.stage(Stage::Decode, &read, rows, (layer, from_rope), recorder)?;
        self.stage(Stage::Measure, &written, heads, (layer, to_rope), recorder)?;
        self.stage(Stage::Encode, &written, longest.div_ceil(WORKGROUP), (layer, None), recorder)
    }

    /// Records one kernel over items.
    fn stage(
        &self,
        stage: Stage,
        items: &[u32],
        groups: u32,
        (layer, rope): (u32, Option<RopeId>),
        recorder: &mut Recorder<'_>,
    ) -> Result<(), BackendError> {
        const ITEM_WORDS: usize = 8;
        let PoolGeometry { kv_heads, head_dim, element, .. } = self.pool.geometry;
        let rope = rope.map(|rope| self.weights.rope(rope)).transpose()?;
        let half = rope.map_or(0, |rope| word(rope.rotary_dim / 2));
        let sines_at = rope.map_or(0, |rope| word(rope.positions)) * half;
        let tables = &mut recorder.recording.tables;
        tables.extend([half, sines_at]);
        let directory_at = word(tables.len());
        tables.extend(items);
        let count = word(items.len() / ITEM_WORDS);
        let params =
            Params { items: count, items_at: directory_at, directory_at, kv_heads: word(kv_heads), groups };
        let scratch = Place::Buffer(self.scratch.clone());
        let stripe = Place::Buffer(self.pool.stripe(layer)?.clone());
        let constants = self.held.constants.place();
        let rope = rope.map_or(Place::Tables, |rope| Place::Buffer(rope.buffer.clone()));
        let places = match stage {
            Stage::Decode | Stage::Measure => {
                vec![scratch, stripe.clone(), Place::Tables, stripe, constants, rope]
            }
            Stage::Encode => vec![scratch, stripe, Place::Tables, constants],
        };
        let variant = Variant { stage, element, head_dim: word(head_dim), half: recorder.gpu.decisions.half };
        let workgroups = u64::from(count) * u64::from(groups);
        recorder.dispatch(Kernel::PageCodec(variant), &params, places, workgroups, Loads::default())
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, groups)), (20, 16));
    }
}
