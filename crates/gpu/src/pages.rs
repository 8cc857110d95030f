//! The page pool: one buffer per layer, in which pages lie where their entries say. Where that is; attention itself is in `paged_attention`, moving pages in `page_transfer`.

use interleaf_contract::{
    BackendError, Batch, CHUNK_TOKENS, ContractError, PageAddress, PageElement, PoolGeometry, Step, check,
};

use crate::buffers::{STORAGE, create};
use crate::command::word;
use crate::decide::LARGEST_HEAD;
use crate::device::Gpu;
use crate::error::{self, BACKEND};
use crate::limits::Caps;

/// The pages of every layer.
#[derive(Debug)]
pub(crate) struct PagePool {
    pub geometry: PoolGeometry,
    stripes: Vec<wgpu::Buffer>,
}

/// A pool that this device can have, if there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolPlan {
    geometry: PoolGeometry,
    /// Bytes of a layer.
    stripe: u64,
}

impl PoolPlan {
    /// Checks a geometry; nothing is allocated.
    pub(crate) fn new(caps: Caps, geometry: PoolGeometry) -> Result<Self, BackendError> {
        let stripe = check::pool(&geometry, BACKEND)? as u64;
        let head_dim = geometry.head_dim;
        if !head_dim.is_multiple_of(2) || head_dim > LARGEST_HEAD {
            let what = format!("head_dim {head_dim} (even and up to {LARGEST_HEAD} is)");
            return Err(error::unsupported(what));
        }
        if stripe > caps.binding_bytes {
            let reason = format!("the pages of a layer may take {} bytes here", caps.binding_bytes);
            return Err(error::no_room("the pages of a layer", stripe, reason));
        }
        Ok(Self { geometry, stripe })
    }
}

impl PagePool {
    pub(crate) fn create(gpu: &Gpu, plan: PoolPlan) -> Result<Self, BackendError> {
        let PoolPlan { geometry, stripe } = plan;
        let layer = |layer| create(gpu, &format!("pages of layer {layer}"), stripe, STORAGE);
        let stripes = (0..geometry.layers).map(layer).collect::<Result<_, _>>()?;
        Ok(Self { geometry, stripes })
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.stripes.iter().map(wgpu::Buffer::size).sum()
    }

    /// The pages of a layer.
    pub(crate) fn stripe(&self, layer: u32) -> Result<&wgpu::Buffer, BackendError> {
        let (what, index, len) = ("layer", layer as usize, self.stripes.len());
        self.stripes.get(index).ok_or_else(|| ContractError::OutOfRange { what, index, len }.into())
    }

    /// The stripe and the byte where a page starts. The address has been checked.
    pub(crate) fn locate(&self, page: PageAddress) -> Result<(&wgpu::Buffer, u64), BackendError> {
        Ok((self.stripe(page.layer)?, page.bytes().start as u64))
    }

    /// A layer's directory, for a step whose entries have been checked: for each sequence where, from the
    /// start of the directory, its entries are; then for each chunk up to its last row's position the
    /// entries of K and of V.
    pub(crate) fn directory(&self, step: &Step, layer: usize) -> Vec<u32> {
        let batch = step.batch();
        let mut words = vec![0; batch.sequences.len()];
        for (i, (sequence, chunks)) in batch.sequences.iter().zip(chunks_read(batch)).enumerate() {
            words[i] = word(words.len());
            let entries = sequence.pages.entries(layer).iter().take(chunks);
            words.extend(entries.flat_map(|entry| [entry.k.at, entry.v.at]));
        }
        words
    }
}

/// Chunks of each sequence up to its last row's.
pub(crate) fn chunks_read(batch: &Batch) -> Vec<usize> {
    let mut chunks = vec![0; batch.sequences.len()];
    for row in &batch.rows {
        let needed = row.position as usize / CHUNK_TOKENS + 1;
        if let Some(found) = chunks.get_mut(row.sequence as usize) {
            *found = needed.max(*found);
        }
    }
    chunks
}

/// u32 of one head of one token.
pub(crate) const fn row_words(element: PageElement, head_dim: u32) -> u32 {
    match element {
        PageElement::F16 => head_dim / 2,
        PageElement::F32 => head_dim,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_cannot_have_is_refused_before_anything_is_allocated() {
        let plan = |head_dim, slots| {
            let geometry =
                PoolGeometry { layers: 1, kv_heads: 1, head_dim, slots, element: PageElement::F16 };
            PoolPlan::new(Caps::lowest(), geometry)
        };
        assert_eq!(plan(64, 10).unwrap().stripe, 10 * 2 * 16 * 64 * 2);
        assert!(matches!(plan(0, 1), Err(BackendError::Contract(_))));
        assert!(matches!(plan(63, 1), Err(BackendError::Unsupported { .. })));
        assert!(matches!(plan(258, 1), Err(BackendError::Unsupported { .. })));
        assert!(matches!(plan(2, 1 << 28), Err(BackendError::OutOfMemory { .. })));
        assert!(plan(64, (128 << 20) / (2 * 16 * 64 * 2)).is_ok());
        assert!(matches!(plan(64, (128 << 20) / 4096 + 1), Err(BackendError::OutOfMemory { .. })));
    }
}
