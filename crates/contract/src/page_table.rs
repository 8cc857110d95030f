//! Page tables: where the pages of a sequence are, by layer and chunk, and which layers of a batch have all of them in
//! the same places. Who decides where a page goes is elsewhere.

use crate::{ConstantsId, PageCodec, PageElement, PageHalf, PoolGeometry, Sequence};

/// A page that stands alone: where it is in the layer's stripe, and how it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PagePlace {
    /// How it is stored.
    pub codec: PageCodec,
    /// Where it begins, in units of [`PAGE_UNIT`](crate::PAGE_UNIT) bytes.
    pub at: u32,
    /// What it is decoded with, if the codec has constants.
    pub constants: Option<ConstantsId>,
}

/// Where one page is and how to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageEntry {
    /// How it is stored.
    pub codec: PageCodec,
    /// Where in the layer's stripe it begins, in units of [`PAGE_UNIT`](crate::PAGE_UNIT) bytes.
    pub at: u32,
    /// What it is decoded with, if the codec has constants.
    pub constants: Option<ConstantsId>,
    /// What it is decoded over, unless the codec stands alone.
    pub anchor: Option<PagePlace>,
}

impl PageEntry {
    /// A page that stands alone and needs no constants, such as an exact one.
    #[must_use]
    pub const fn alone(codec: PageCodec, at: u32) -> Self {
        Self { codec, at, constants: None, anchor: None }
    }

    /// An exact page.
    #[must_use]
    pub const fn exact(element: PageElement, at: u32) -> Self {
        Self::alone(PageCodec::Exact(element), at)
    }

    /// This page as another one's anchor.
    #[must_use]
    pub const fn place(self) -> PagePlace {
        let Self { codec, at, constants, .. } = self;
        PagePlace { codec, at, constants }
    }
}

impl From<PagePlace> for PageEntry {
    fn from(PagePlace { codec, at, constants }: PagePlace) -> Self {
        Self { codec, at, constants, anchor: None }
    }
}

/// A chunk's pages in one layer; K and V are addressed apart, since a codec is chosen for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkEntry {
    /// Keys.
    pub k: PageEntry,
    /// Values.
    pub v: PageEntry,
}

impl ChunkEntry {
    /// K or V.
    #[must_use]
    pub const fn half(self, half: PageHalf) -> PageEntry {
        match half {
            PageHalf::K => self.k,
            PageHalf::V => self.v,
        }
    }
}

/// The pages of one sequence: position `p` is token `p % 16` of chunk `p / 16`.
///
/// Kernels ask for `(layer, chunk)`. A *band* is consecutive layers whose entries are equal for every chunk: they share
/// one list. The last band has no end, so that a table need not know how many layers there are.
///
/// No two neighbouring bands are equal, hence two tables are equal where their entries are, in every layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTable {
    /// By first layer, ascending, from layer 0 on; there is always one.
    bands: Vec<Band>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Band {
    first: usize,
    entries: Vec<ChunkEntry>,
}

impl Default for PageTable {
    fn default() -> Self {
        Self { bands: vec![Band { first: 0, entries: Vec::new() }] }
    }
}

impl PageTable {
    /// A table whose chunks each are the exact pages of one slot, the same in every layer.
    #[must_use]
    pub fn uniform(pool: &PoolGeometry, slots: impl IntoIterator<Item = u32>) -> Self {
        let entries = slots.into_iter().map(|slot| pool.slot(slot)).collect();
        Self { bands: vec![Band { first: 0, entries }] }
    }

    /// Chunks in the table.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.entries(0).len()
    }

    /// The pages of a chunk in a layer, if the table reaches that far.
    #[must_use]
    pub fn entry(&self, layer: usize, chunk: usize) -> Option<ChunkEntry> {
        self.entries(layer).get(chunk).copied()
    }

    /// The pages of every chunk in a layer.
    #[must_use]
    pub fn entries(&self, layer: usize) -> &[ChunkEntry] {
        self.bands.get(self.band(layer)).map_or(&[], |band| &band.entries)
    }

    /// Which band a layer is in.
    #[must_use]
    pub fn band(&self, layer: usize) -> usize {
        self.bands.partition_point(|band| band.first <= layer).saturating_sub(1)
    }

    /// The first layer of every band, ascending: 0 and the layers that differ somewhere from the one below.
    pub fn bands(&self) -> impl Iterator<Item = usize> + '_ {
        self.bands.iter().map(|band| band.first)
    }

    /// Appends a chunk whose pages in the layers below `layers` are given; those above are where the last layer's are.
    /// Without a layer there is nothing to append.
    pub fn push(&mut self, layers: usize, entry_of: impl Fn(usize) -> ChunkEntry) {
        let Some(last) = layers.checked_sub(1) else { return };
        self.split(layers, &entry_of);
        for band in &mut self.bands {
            band.entries.push(entry_of(band.first.min(last)));
        }
    }

    /// Replaces the pages of one chunk, by the rules of [`PageTable::push`]. A chunk that is not in the table changes
    /// nothing.
    pub fn set(&mut self, layers: usize, chunk: usize, entry_of: impl Fn(usize) -> ChunkEntry) {
        let Some(last) = layers.checked_sub(1).filter(|_| chunk < self.chunks()) else { return };
        self.split(layers, &entry_of);
        for band in &mut self.bands {
            if let Some(entry) = band.entries.get_mut(chunk) {
                *entry = entry_of(band.first.min(last));
            }
        }
        self.join();
    }

    /// Keeps the first `chunks` chunks.
    pub fn truncate(&mut self, chunks: usize) {
        if chunks < self.chunks() {
            self.bands.iter_mut().for_each(|band| band.entries.truncate(chunks));
            self.join();
        }
    }

    /// Splits bands so that a chunk's entries differ within none of them.
    fn split(&mut self, layers: usize, entry_of: &impl Fn(usize) -> ChunkEntry) {
        let mut below = None;
        for layer in 0..layers {
            let entry = Some(entry_of(layer));
            if layer > 0 && entry != below {
                self.begin_band(layer);
            }
            below = entry;
        }
    }

    /// Begins a band at a layer, if none does.
    fn begin_band(&mut self, layer: usize) {
        let at = self.band(layer);
        if let Some(band) = self.bands.get(at)
            && band.first != layer
        {
            let entries = band.entries.clone();
            self.bands.insert(at + 1, Band { first: layer, entries });
        }
    }

    /// Joins neighbours that have become equal.
    fn join(&mut self) {
        self.bands.dedup_by(|above, below| above.entries == below.entries);
    }
}

/// The bands of all sequences of a batch together: layers of one band have the same pages in every sequence, so that
/// what is planned for one of them serves all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bands {
    /// First layers, ascending.
    firsts: Vec<usize>,
}

impl Bands {
    /// The bands of some sequences.
    #[must_use]
    pub fn of(sequences: &[Sequence]) -> Self {
        let mut firsts: Vec<usize> = sequences.iter().flat_map(|sequence| sequence.pages.bands()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        Self { firsts }
    }

    /// The first layer of the band that a layer is in, by which what was planned for the band is kept.
    #[must_use]
    pub fn first(&self, layer: usize) -> usize {
        let at = self.firsts.partition_point(|&first| first <= layer);
        self.firsts[..at].last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POOL: PoolGeometry =
        PoolGeometry { layers: 9, kv_heads: 1, head_dim: 2, slots: 16, element: PageElement::F16 };

    fn at(slot: u32) -> ChunkEntry {
        POOL.slot(slot)
    }

    fn bands(table: &PageTable) -> Vec<usize> {
        table.bands().collect()
    }

    #[test]
    fn a_uniform_table_has_one_band() {
        let table = PageTable::uniform(&POOL, [4, 2]);
        assert_eq!(bands(&table), [0]);
        assert_eq!((table.chunks(), table.band(0), table.band(99)), (2, 0, 0));
        assert_eq!([0, 99].map(|layer| table.entry(layer, 1)), [Some(at(2)); 2]);
        assert_eq!(table.entry(0, 2), None);
        let mut pushed = PageTable::default();
        assert_eq!((pushed.chunks(), pushed.entry(0, 0), bands(&pushed)), (0, None, vec![0]));
        for slot in [4, 2] {
            pushed.push(3, |_| at(slot));
        }
        assert_eq!(pushed, table);
    }

    #[test]
    fn bands_are_split_where_chunks_differ_and_joined_again() {
        let mut table = PageTable::uniform(&POOL, [0]);
        table.push(4, |layer| at(if layer < 2 { 1 } else { 5 }));
        table.push(4, |layer| at(if layer < 3 { 2 } else { 6 }));
        assert_eq!(bands(&table), [0, 2, 3]);
        assert_eq!([0, 1, 2, 3, 4].map(|layer| table.band(layer)), [0, 0, 1, 2, 2]);
        let slots = |layer| table.entries(layer).to_vec();
        let expected = [[0, 1, 2], [0, 5, 2], [0, 5, 6]].map(|slots| slots.map(at));
        assert_eq!([slots(1), slots(2), slots(3)], expected);
        let mut same = table.clone();
        same.set(4, 2, |_| at(2));
        assert_eq!(bands(&same), [0, 2]);
        same.truncate(1);
        assert_eq!(same, PageTable::uniform(&POOL, [0]));
        table.truncate(0);
        assert_eq!(table, PageTable::default());
    }

    #[test]
    fn what_is_not_there_is_not_changed() {
        let mut table = PageTable::uniform(&POOL, [0]);
        let before = table.clone();
        table.set(4, 1, |_| at(9));
        table.set(0, 0, |_| at(9));
        table.push(0, |_| at(9));
        table.truncate(2);
        assert_eq!(table, before);
    }

    #[test]
    fn bands_of_a_batch_begin_where_any_table_has_one() {
        let split = |at_layer| {
            let mut pages = PageTable::default();
            pages.push(9, |layer| at(u32::from(layer >= at_layer)));
            Sequence { pages }
        };
        let bands = Bands::of(&[split(5), split(0), split(3), split(5)]);
        assert_eq!([0, 2, 3, 4, 5, 8].map(|layer| bands.first(layer)), [0, 0, 3, 3, 5, 5]);
        assert_eq!(Bands::of(&[]).first(7), 0);
    }

    /// What is done to a table, with a slot for each layer.
    #[derive(Debug, Clone)]
    enum Change {
        Push(Vec<u32>),
        Set(usize, Vec<u32>),
        Truncate(usize),
    }

    const LAYERS: usize = 6;

    fn any_change() -> impl Strategy<Value = Change> {
        let slots = || prop::collection::vec(0u32..3, LAYERS);
        prop_oneof![
            4 => slots().prop_map(Change::Push),
            2 => (0usize..8, slots()).prop_map(|(chunk, slots)| Change::Set(chunk, slots)),
            1 => (0usize..8).prop_map(Change::Truncate),
        ]
    }

    proptest! {
        #[test]
        fn a_table_is_a_map_of_layers_and_chunks(
            changes in prop::collection::vec(any_change(), 0..24),
        ) {
            let mut table = PageTable::default();
            let mut naive: Vec<Vec<u32>> = Vec::new();
            for change in changes {
                match change {
                    Change::Push(slots) => {
                        table.push(LAYERS, |layer| at(slots[layer]));
                        naive.push(slots);
                    }
                    Change::Set(chunk, slots) => {
                        table.set(LAYERS, chunk, |layer| at(slots[layer]));
                        if let Some(old) = naive.get_mut(chunk) {
                            *old = slots;
                        }
                    }
                    Change::Truncate(chunks) => {
                        table.truncate(chunks);
                        naive.truncate(chunks);
                    }
                }
                prop_assert_eq!(table.chunks(), naive.len());
                for layer in 0..LAYERS {
                    let found: Vec<_> = (0..=naive.len()).filter_map(|chunk| table.entry(layer, chunk)).collect();
                    let expected: Vec<_> = naive.iter().map(|slots| at(slots[layer])).collect();
                    prop_assert_eq!(found, expected);
                    let own = layer == 0 || naive.iter().any(|slots| slots[layer] != slots[layer - 1]);
                    prop_assert_eq!(table.bands().any(|first| first == layer), own);
                }
                let mut again = PageTable::default();
                naive.iter().for_each(|slots| again.push(LAYERS, |layer| at(slots[layer])));
                prop_assert_eq!(&again, &table);
            }
        }
    }
}
