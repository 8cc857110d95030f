//! Compares pages with what they were stored from: one dispatch to a layer, whatever codecs they are in, and what all of
//! them found is read back at once. Nothing is written to pages, so that one may be the anchor of another, or its own.

use interleaf_contract::{BackendError, CHUNK_TOKENS, PageLoss, PageRecode, RopeId};

use super::{Bound, Stage};
use crate::command::{Place, Recorder, word};
use crate::error;
use crate::pages::PagePool;
use crate::parts::Parts;
use crate::step::Held;
use crate::weights::Weights;

/// Bytes of what is found of a head: the sum of squared differences, and that of squares.
const HEAD_BYTES: usize = 2 * size_of::<f32>();

/// A page in the tables, and what it has in common with those of one dispatch: its layer, and the table that its keys are
/// turned by where they are.
type Compared = (u32, Option<RopeId>, Vec<u32>);

/// Records what pages are compared by that have been checked, and what is read back of it: see [`losses`].
///
/// # Errors
/// If keys of a page would be turned by two tables: a kernel binds one.
pub(crate) fn compare(
    weights: &Weights,
    held: Held<'_>,
    pool: &PagePool,
    pages: &[PageRecode],
    recorder: &mut Recorder<'_>,
) -> Result<(), BackendError> {
    let kv_heads = pool.geometry.kv_heads;
    let bytes = (pages.len() * kv_heads * HEAD_BYTES) as u64;
    let found = recorder.scratch.take(recorder.gpu, bytes)?;
    let mut compared = Vec::with_capacity(pages.len());
    for (page, to) in pages.iter().zip((0u32..).step_by(2 * kv_heads)) {
        compared.push(item(page, to, held)?);
    }
    // What is not turned comes before what is, and goes with it.
    compared.sort_by_key(|(layer, rope, _)| (*layer, rope.map(|rope| rope.0)));
    let on = Bound { weights, held, pool, scratch: &found };
    for group in compared.chunk_by(|(a, own, _), (b, next, _)| a == b && (own.is_none() || own == next)) {
        let Some(&(layer, rope, _)) = group.last() else { continue };
        let items: Vec<u32> = group.iter().flat_map(|(.., words)| words).copied().collect();
        on.stage(Stage::Compare, &items, word(kv_heads), (layer, rope), recorder)?;
    }
    recorder.recording.read_back(Place::Buffer(found.clone()), 0, bytes);
    recorder.scratch.give(&found);
    Ok(())
}

/// A page, whose heads leave what they find from a place on.
fn item(page: &PageRecode, to: u32, held: Held<'_>) -> Result<Compared, BackendError> {
    let &PageRecode { layer, half, chunk, from, to: stored } = page;
    let (before, one) = Parts::of(from, half, held.constants)?;
    let (after, other) = Parts::of(stored, half, held.constants)?;
    if one.is_some() && other.is_some() && one != other {
        return Err(error::unsupported("keys of one page that two rope tables turn"));
    }
    let words = before.words().into_iter().chain(after.words());
    let words = words.chain([chunk * CHUNK_TOKENS as u32, to]).collect();
    Ok((layer, one.or(other), words))
}

/// The losses of pages of so many heads, in the order in which they were compared, from what was read back.
pub(crate) fn losses(read_back: &[u8], kv_heads: usize) -> Vec<PageLoss> {
    let heads: Vec<[f32; 2]> = read_back
        .as_chunks::<HEAD_BYTES>()
        .0
        .iter()
        .map(|&[a, b, c, d, e, f, g, h]| [[a, b, c, d], [e, f, g, h]].map(f32::from_le_bytes))
        .collect();
    let sum = |heads: &[[f32; 2]], which: usize| heads.iter().map(|head| head[which]).sum();
    heads
        .chunks(kv_heads.max(1))
        .map(|heads| PageLoss { error: sum(heads, 0), norm: sum(heads, 1) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_s_loss_is_that_of_its_heads() {
        let found: Vec<u8> = (1..=8).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let expected = [PageLoss { error: 4.0, norm: 6.0 }, PageLoss { error: 12.0, norm: 14.0 }];
        assert_eq!(losses(&found, 2), expected);
        assert_eq!(losses(&[], 2), []);
    }
}
