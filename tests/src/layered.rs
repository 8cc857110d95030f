//! Steps of several layers over page tables that differ by layer: in each an append and attention, over pages that
//! sequences share in some layers and not in others, or over the same contents with nothing shared.

use interleaf_contract::{
    AttentionShape, Backend, BackendError, Batch, Bytes, CHUNK_TOKENS, Op, PageAddress, PageData,
    PageElement, PageHalf, PageTable, PoolGeometry, Row, RowSet, Sequence, Step, Tensor,
};
use interleaf_kernels_ref::page_codec;

use crate::attention::SequenceSpec;
use crate::data::{Random, aligned};

/// Sequences and whose pages they read.
#[derive(Debug, Clone)]
pub struct LayeredCase {
    pub shape: AttentionShape,
    pub element: PageElement,
    /// Their rows are the last positions, behind what is shared.
    pub sequences: Vec<SequenceSpec>,
    /// Chunks of each sequence that may be another's.
    pub shared_chunks: usize,
    /// For each layer and sequence whose these chunks are: an earlier one's, which has its own, or its own.
    pub owners: Vec<Vec<usize>>,
}

/// Where the pages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// In slots of each layer's own, once for all that share them.
    ByLayer,
    /// In a slot for each chunk of each sequence, the same in every layer.
    Uniform,
}

/// What a step gave: attention of each layer, and every page of each layer and sequence as the step leaves it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub attention: Vec<Vec<f32>>,
    pub pages: Vec<Bytes>,
}

impl LayeredCase {
    fn chunks(&self, sequence: usize) -> usize {
        self.sequences[sequence].tokens.div_ceil(CHUNK_TOKENS)
    }

    /// Every chunk of every sequence.
    fn all_chunks(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.sequences.len()).flat_map(|s| (0..self.chunks(s)).map(move |chunk| (s, chunk)))
    }

    fn geometry(&self) -> PoolGeometry {
        let (kv_heads, head_dim) = (self.shape.kv_heads as usize, self.shape.head_dim as usize);
        let (layers, slots) = (self.owners.len(), self.all_chunks().count());
        PoolGeometry { layers, kv_heads, head_dim, slots, element: self.element }
    }

    /// Whose page a chunk of a sequence is in a layer.
    fn owner(&self, layer: usize, sequence: usize, chunk: usize) -> usize {
        if chunk < self.shared_chunks { self.owners[layer][sequence] } else { sequence }
    }

    /// The slots of a layer in an order that those of all layers with the same owners have.
    fn order(&self, layer: usize) -> Vec<u32> {
        let alike = self.owners.iter().position(|owners| *owners == self.owners[layer]);
        let mut random = Random::new(70 + alike.expect("the layer itself") as u64);
        let mut slots: Vec<u32> = (0..self.all_chunks().count() as u32).collect();
        for i in (1..slots.len()).rev() {
            slots.swap(i, random.below(i + 1));
        }
        slots
    }

    /// The slot of each chunk, by layer, then as [`Self::all_chunks`] has them.
    fn slots(&self, tables: Tables) -> Vec<Vec<u32>> {
        let place = |sequence: usize, chunk: usize| {
            (0..sequence).map(|before| self.chunks(before)).sum::<usize>() + chunk
        };
        let layers = 0..self.owners.len();
        layers
            .map(|layer| {
                let order = self.order(layer);
                self.all_chunks()
                    .map(|(sequence, chunk)| match tables {
                        Tables::ByLayer => order[place(self.owner(layer, sequence, chunk), chunk)],
                        Tables::Uniform => place(sequence, chunk) as u32,
                    })
                    .collect()
            })
            .collect()
    }

    fn batch(&self, slots: &[Vec<u32>]) -> Batch {
        let geometry = self.geometry();
        let mut batch = Batch::default();
        let mut next = 0;
        for (index, spec) in self.sequences.iter().enumerate() {
            let first = spec.tokens - spec.queries;
            assert!(first >= self.shared_chunks * CHUNK_TOKENS, "no two rows are appended to one page");
            let (sequence, kind) = (index as u32, spec.kind);
            let row = |p: usize| Row { token: 0, position: p as u32, sequence, adapter: -1, kind };
            batch.rows.extend((first..spec.tokens).map(row));
            let mut pages = PageTable::default();
            for _ in 0..self.chunks(index) {
                pages.push(slots.len(), |layer| geometry.slot(slots[layer][next]));
                next += 1;
            }
            batch.sequences.push(Sequence { pages });
        }
        batch
    }

    /// What a page holds before the step.
    fn page(&self, layer: usize, owner: usize, chunk: usize, half: PageHalf) -> Bytes {
        let geometry = self.geometry();
        let seed = ((layer * 100 + owner) * 1000 + chunk) * 2 + usize::from(half == PageHalf::V);
        let values = Random::new(seed as u64).values(geometry.page_elements());
        let mut words = vec![0u32; geometry.page_bytes() / 4];
        page_codec::encode(self.element, bytemuck::cast_slice_mut(&mut words), 0, &values);
        aligned(bytemuck::cast_slice(&words))
    }

    /// Runs the case.
    ///
    /// # Errors
    /// If the backend refuses it.
    pub fn run(&self, tables: Tables, backend: &mut dyn Backend) -> Result<Found, BackendError> {
        let slots = self.slots(tables);
        let mut pages = Vec::new();
        for (layer, slots) in slots.iter().enumerate() {
            for ((sequence, chunk), &slot) in self.all_chunks().zip(slots) {
                for half in [PageHalf::K, PageHalf::V] {
                    let address = self.geometry().page(layer as u32, slot, half);
                    let bytes = self.page(layer, self.owner(layer, sequence, chunk), chunk, half);
                    pages.push(PageData { address, bytes });
                }
            }
        }
        backend.create_pool(self.geometry())?;
        backend.write_pages(&pages)?;

        let mut step = Step::new(self.batch(&slots))?;
        let shape = self.shape;
        let (cols, kv_cols) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let mut random = Random::new(9);
        let mut load = |step: &mut Step, cols: u32, factor: f32| -> Tensor {
            let values = random.values(step.batch().rows.len() * cols as usize);
            let out = step.tensor(RowSet::All, cols);
            step.push(Op::Load { out, data: values.into_iter().map(|v| factor * v).collect() });
            out
        };
        for layer in 0..slots.len() as u32 {
            // Scores of a few units, so that the softmax is neither flat nor a single spike.
            let (q, k, v) =
                (load(&mut step, cols, 6.0), load(&mut step, kv_cols, 1.0), load(&mut step, kv_cols, 1.0));
            let out = step.tensor(RowSet::All, cols);
            step.push(Op::KvAppend { layer, k, v });
            step.push(Op::PagedAttention { layer, shape, q, out });
            step.probe(out);
        }
        let ticket = backend.submit(step)?;
        let addresses: Vec<PageAddress> = pages.iter().map(|page| page.address).collect();
        let read = backend.read_pages(&addresses)?;
        let attention = backend.wait(ticket)?.probes;
        let pages = backend.wait_pages(read)?.into_iter().map(|page| page.bytes).collect();
        Ok(Found { attention, pages })
    }
}
