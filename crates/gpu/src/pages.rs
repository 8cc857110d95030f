//! The page pool: one buffer per layer, which holds slot by slot a page of K and a page of V. Where pages
//! are and which entries are lawful; attention itself is in `paged_attention`.

use interleaf_contract::{
    BackendError, CHUNK_TOKENS, ContractError, PageAddress, PageCodec, PageEntry, PageHalf, PoolGeometry,
    Step,
};

use crate::buffers::{STORAGE, create};
use crate::command::word;
use crate::decide::LARGEST_HEAD;
use crate::device::Gpu;
use crate::error;

/// Where the codec's tag is in an entry of a page table: above the slot, as `shaders/lib/page.wgsl` reads.
const CODEC_SHIFT: u32 = 28;

/// The pages of every layer.
#[derive(Debug)]
pub(crate) struct PagePool {
    pub geometry: PoolGeometry,
    stripes: Vec<wgpu::Buffer>,
}

impl PagePool {
    pub(crate) fn create(gpu: &Gpu, geometry: PoolGeometry) -> Result<Self, BackendError> {
        let head_dim = geometry.head_dim;
        if head_dim == 0 || !head_dim.is_multiple_of(2) || head_dim > LARGEST_HEAD {
            let what = format!("head_dim {head_dim} (even and up to {LARGEST_HEAD} is)");
            return Err(error::unsupported(what));
        }
        let bytes = (CHUNK_TOKENS as u64 * head_dim as u64)
            .checked_mul(geometry.kv_heads as u64)
            .and_then(|elements| elements.checked_mul(geometry.codec.bytes(1) as u64))
            .and_then(|page| page.checked_mul(2))
            .and_then(|pages| pages.checked_mul(geometry.slots as u64));
        let too_many = geometry.slots >= 1 << CODEC_SHIFT || geometry.kv_heads == 0;
        let Some(bytes) = bytes.filter(|_| !too_many) else {
            let what = format!("a pool of {} slots of {} kv heads", geometry.slots, geometry.kv_heads);
            return Err(error::unsupported(what));
        };
        let stripe = |layer| create(gpu, &format!("pages of layer {layer}"), bytes, STORAGE);
        let stripes = (0..geometry.layers).map(stripe).collect::<Result<_, _>>()?;
        Ok(Self { geometry, stripes })
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.stripes.iter().map(wgpu::Buffer::size).sum()
    }

    /// The pages of a layer.
    pub(crate) fn stripe(&self, layer: u32) -> Result<&wgpu::Buffer, BackendError> {
        let len = self.stripes.len();
        let missing = || ContractError::OutOfRange { what: "layer", index: layer as usize, len }.into();
        self.stripes.get(layer as usize).ok_or_else(missing)
    }

    /// u32 in a page.
    pub(crate) fn page_words(&self) -> u32 {
        word(self.geometry.page_bytes() / size_of::<u32>())
    }

    /// The stripe and the byte where a page starts.
    pub(crate) fn locate(&self, page: PageAddress) -> Result<(&wgpu::Buffer, u64), BackendError> {
        let stripe = self.stripe(page.layer)?;
        self.check_slot(page.slot)?;
        let half = match page.half {
            PageHalf::K => 0,
            PageHalf::V => 1,
        };
        Ok((stripe, (2 * u64::from(page.slot) + half) * self.geometry.page_bytes() as u64))
    }

    fn check_slot(&self, slot: u32) -> Result<(), BackendError> {
        let (index, len) = (slot as usize, self.geometry.slots);
        if index < len { Ok(()) } else { Err(ContractError::OutOfRange { what: "slot", index, len }.into()) }
    }

    /// An entry as kernels read it.
    fn entry_word(&self, entry: PageEntry) -> Result<u32, BackendError> {
        if entry.codec != self.geometry.codec {
            return Err(BackendError::PageCodec { pool: self.geometry.codec, found: entry.codec });
        }
        self.check_slot(entry.slot)?;
        Ok((entry.codec as u32) << CODEC_SHIFT | entry.slot)
    }

    /// A layer's directory: for each sequence where, from the start of the directory, its entries are;
    /// then for each chunk up to its last row's position the entries of K and of V.
    pub(crate) fn directory(&self, step: &Step, layer: u32) -> Result<Vec<u32>, BackendError> {
        let batch = step.batch();
        let mut chunks = vec![0; batch.sequences.len()];
        for row in &batch.rows {
            let needed = row.position as usize / CHUNK_TOKENS + 1;
            if let Some(found) = chunks.get_mut(row.sequence as usize) {
                *found = needed.max(*found);
            }
        }
        let mut words = vec![0; chunks.len()];
        for (i, (sequence, chunks)) in batch.sequences.iter().zip(chunks).enumerate() {
            words[i] = word(words.len());
            for chunk in 0..chunks {
                let len = sequence.pages.chunks();
                let missing = ContractError::OutOfRange { what: "chunk of a sequence", index: chunk, len };
                let entry = sequence.pages.entry(layer as usize, chunk).ok_or(missing)?;
                words.extend([self.entry_word(entry.k)?, self.entry_word(entry.v)?]);
            }
        }
        Ok(words)
    }
}

/// u32 of one head of one token.
pub(crate) const fn row_words(codec: PageCodec, head_dim: u32) -> u32 {
    match codec {
        PageCodec::F16 => head_dim / 2,
        PageCodec::F32 => head_dim,
    }
}
