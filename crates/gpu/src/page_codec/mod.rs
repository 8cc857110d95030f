//! `page_codec`: the kernels that store pages in other codecs and compare what came of them. What they do is in
//! `shaders/page_codec_*.wgsl`; who records them is in `recode` and `compare`.

mod compare;
mod recode;

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, CHUNK_TOKENS, GROUP_CHANNELS, PageElement, PoolGeometry, RopeId};

use crate::command::{Place, Recorder, word};
use crate::cost::Loads;
use crate::decide::{Half, WORKGROUP};
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::pages::{PagePool, row_words};
use crate::parts::Kinds;
use crate::step::Held;
use crate::weights::Weights;

pub(crate) use compare::{compare, losses};
pub(crate) use recode::recode;

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
    Compare,
}

impl Stage {
    #[cfg(test)]
    const ALL: [Self; 4] = [Self::Decode, Self::Measure, Self::Encode, Self::Compare];

    /// Words of an item in the tables.
    const fn item_words(self) -> usize {
        match self {
            Self::Decode | Self::Measure | Self::Encode => 8,
            Self::Compare => 14,
        }
    }
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
        const READS_PAGES: &[Access] = &[Write, Read, Read, Read, Read, Read];
        let Self { stage, element, head_dim, half } = self;
        let (name, codec, bindings): (_, _, &[Access]) = match stage {
            Stage::Decode => ("page_codec_decode", format!("coded_{element}"), READS_PAGES),
            Stage::Measure => ("page_codec_measure", format!("coded_{element}"), READS_PAGES),
            Stage::Encode => ("page_codec_encode", element.to_string(), &[Read, Write, Read, Read]),
            Stage::Compare => ("page_codec_compare", format!("coded_{element}"), READS_PAGES),
        };
        let numbers = [
            ("WORKGROUP", WORKGROUP),
            ("HEAD_DIM", head_dim),
            ("QUADS", head_dim.div_ceil(4)),
            ("CHUNK", CHUNK_TOKENS as u32),
            ("GROUP", GROUP_CHANNELS as u32),
            ("ROW_WORDS", row_words(element, head_dim)),
            ("TILE", 1),
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
        constants.extend(Kinds::ALL.constants());
        let narrow = if head_dim.is_multiple_of(4) { "" } else { "_narrow" };
        constants.push(("NARROW", narrow.to_owned()));
        constants.push(("HALF", half.name().to_owned()));
        Template { name, constants, bindings, params: size_of::<Params>(), needs: Needs::Nothing }
    }

    /// Variants of every element and shape of head, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for stage in Stage::ALL {
            for element in [PageElement::F16, PageElement::F32] {
                for half in Half::ALL {
                    all.extend([2, 64, 66, 256].map(|head_dim| Self { stage, element, head_dim, half }));
                }
            }
        }
        all
    }
}

/// What the kernels of a call work on.
#[derive(Clone, Copy)]
struct Bound<'a> {
    weights: &'a Weights,
    held: Held<'a>,
    pool: &'a PagePool,
    /// Numbers of pages, or what is found of them.
    scratch: &'a wgpu::Buffer,
}

impl Bound<'_> {
    /// Records one kernel over items of one layer, so many workgroups to each; keys are turned by a table.
    fn stage(
        &self,
        stage: Stage,
        items: &[u32],
        groups: u32,
        (layer, rope): (u32, Option<RopeId>),
        recorder: &mut Recorder<'_>,
    ) -> Result<(), BackendError> {
        let PoolGeometry { kv_heads, head_dim, element, .. } = self.pool.geometry;
        let rope = rope.map(|rope| self.weights.rope(rope)).transpose()?;
        let half = rope.map_or(0, |rope| word(rope.rotary_dim / 2));
        let sines_at = rope.map_or(0, |rope| word(rope.positions)) * half;
        let tables = &mut recorder.recording.tables;
        tables.extend([half, sines_at]);
        let directory_at = word(tables.len());
        tables.extend(items);
        let count = word(items.len() / stage.item_words());
        let params =
            Params { items: count, items_at: directory_at, directory_at, kv_heads: word(kv_heads), groups };
        let scratch = Place::Buffer(self.scratch.clone());
        let stripe = Place::Buffer(self.pool.stripe(layer)?.clone());
        let constants = self.held.constants.place();
        let rope = rope.map_or(Place::Tables, |rope| Place::Buffer(rope.buffer.clone()));
        let places = match stage {
            Stage::Decode | Stage::Measure | Stage::Compare => {
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
