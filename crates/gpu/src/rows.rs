//! Row lists as kernels look them up: which rows are of which kind, which share an adapter, where each
//! stands in its sequence. Built once per step and row set, shared by all operations. Plain words; no
//! device here.

use std::collections::HashMap;

use interleaf_contract::{ATTENTION_SPLIT, CHUNK_TOKENS, PageElement, PoolGeometry, Row, RowSet, Step};

use crate::command::word;
use crate::cost;
use crate::decide::{AttentionTile, CODED_KEYS, ROW_TILE, Strategy};
use crate::parts::{Part, PartLoads, PartTables, Parts};

/// A list in the tables: its first word and its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct List {
    pub at: u32,
    pub count: u32,
}

/// What stands for "no adapter" in the list of adapters.
const NO_ADAPTER: u32 = u32::MAX;

/// Rows as `lora_matmul` sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MatmulRows {
    /// Index into the batch's adapters for each row, or [`NO_ADAPTER`].
    pub adapters_at: u32,
    /// Row numbers of generated rows.
    pub decode: List,
    /// Row numbers of prompt rows.
    pub prefill: List,
    /// `(adapter, rows, row numbers)`: up to [`ROW_TILE`] rows of one adapter, the last repeated.
    pub groups: List,
    /// The adapters that some row has.
    pub used: Vec<usize>,
    /// `(adapter, rows)` of each group.
    pub group_sizes: Vec<(usize, u32)>,
    /// The adapter of each generated row and of each prompt row.
    pub decode_slots: Vec<Option<usize>>,
    pub prefill_slots: Vec<Option<usize>>,
}

/// Rows as `paged_attention` sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttentionRows {
    /// `(first position, 1, tokens of a block, row, state)` of every block that a generated row reads alone.
    pub alone: List,
    /// `(first position, rows, tokens, a row and its state for each)` of every block that generated rows read together, the
    /// longest sequence first; behind the last row it is repeated. The first so many tokens are of pages that all rows read,
    /// or that those lie over which they read.
    pub shared: List,
    /// `(row, state of its first block, blocks)` of every generated row.
    pub merges: List,
    /// Blocks of all generated rows.
    pub states: u32,
    /// `(first row, rows)` of tiles of prompt rows of one sequence.
    pub tiles: List,
    /// What is read of pages: by each item alone, by each shared one, and block by block for each tile.
    pub alone_blocks: Vec<BlockRead>,
    pub shared_blocks: Vec<BlockRead>,
    pub tile_blocks: Vec<Vec<BlockRead>>,
    /// The same of what is read with coded pages.
    pub coded: CodedRows,
}

/// Blocks and tiles that have pages in other codecs than the pool's own numbers, by kernels of their own: what a row is
/// computed by depends on its own pages, never on those of the rows beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CodedRows {
    pub alone: List,
    pub shared: List,
    pub tiles: List,
    /// Bytes of pages that each of them loads in all, once for every KV head.
    pub alone_pages: u64,
    pub shared_pages: u64,
    pub tile_pages: u64,
}

/// The tokens of a block that are read, from `skipped` to below `count`, and how many of them once more for another
/// row, as keys and as values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockRead {
    pub skipped: u32,
    pub count: u32,
    pub again: u32,
}

impl BlockRead {
    /// Bytes of one KV head's pages.
    pub(crate) fn pages(self, tile: AttentionTile, element: PageElement) -> u64 {
        let bytes = element.bytes(1) as u64;
        let again = u64::from(self.again) * u64::from(tile.quads()) * 4 * bytes;
        cost::block(tile, bytes, CHUNK_TOKENS as u32, self.skipped, self.count) + again
    }
}

/// What decides how rows are put together for attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionTiles {
    /// Generated rows that share pages in one workgroup.
    pub shared: u32,
    /// Prompt rows of a workgroup.
    pub prefill: u32,
    pub window: Option<u32>,
}

/// What was built so far for one step. Pages are read and written by all rows, matmuls also by outputs.
#[derive(Debug, Default)]
pub(crate) struct RowTables {
    matmul: Vec<(RowSet, MatmulRows)>,
    records: Vec<(RowSet, u32)>,
    tokens: Option<u32>,
    outputs: Option<u32>,
    attention: Vec<((AttentionTiles, usize), AttentionRows)>,
}

impl RowTables {
    pub(crate) fn matmul(&mut self, step: &Step, rows: RowSet, tables: &mut Vec<u32>) -> &MatmulRows {
        once(&mut self.matmul, rows, || {
            let rows: Vec<&Row> = step.rows(rows).collect();
            matmul_rows(&rows, step.batch().adapters.len(), tables)
        })
    }

    /// Where `(position, sequence)` of each row is.
    pub(crate) fn records(&mut self, step: &Step, rows: RowSet, tables: &mut Vec<u32>) -> u32 {
        *once(&mut self.records, rows, || {
            list(tables, 2, step.rows(rows).flat_map(|row| [row.position, row.sequence])).at
        })
    }

    /// Where the token of each row is.
    pub(crate) fn tokens(&mut self, step: &Step, tables: &mut Vec<u32>) -> u32 {
        *self.tokens.get_or_insert_with(|| list(tables, 1, step.batch().rows.iter().map(|row| row.token)).at)
    }

    /// Where the rows of the outputs are.
    pub(crate) fn outputs(&mut self, step: &Step, tables: &mut Vec<u32>) -> u32 {
        *self.outputs.get_or_insert_with(|| list(tables, 1, step.batch().outputs.iter().map(|o| o.row)).at)
    }

    /// For attention in the layers of a band, which is named by its first one. Kernels read what any row's own tables
    /// say: rows that were put together for other pages than theirs would be read right too, only more often.
    pub(crate) fn attention(
        &mut self,
        step: &Step,
        band: usize,
        tiles: AttentionTiles,
        coded: Option<(&PartTables, PoolGeometry)>,
        tables: &mut Vec<u32>,
    ) -> &AttentionRows {
        once(&mut self.attention, (tiles, band), || {
            let page = |row: &Row, chunk: usize| {
                let sequence = &step.batch().sequences[row.sequence as usize];
                sequence.pages.entry(band, chunk).map(|entry| [entry.k.at, entry.v.at])
            };
            let coded = coded.map(|(parts, pool)| Coded { parts, loads: PartLoads::new(pool) });
            attention_rows(&step.batch().rows, tiles, page, coded, tables)
        })
    }
}

/// The value under a key, made on first use.
fn once<K: PartialEq, V>(made: &mut Vec<(K, V)>, key: K, make: impl FnOnce() -> V) -> &V {
    let at = match made.iter().position(|(k, _)| *k == key) {
        Some(at) => at,
        None => {
            made.push((key, make()));
            made.len() - 1
        }
    };
    &made[at].1
}

fn list(tables: &mut Vec<u32>, width: usize, words: impl IntoIterator<Item = u32>) -> List {
    let at = tables.len();
    tables.extend(words);
    List { at: word(at), count: word((tables.len() - at) / width) }
}

fn matmul_rows(rows: &[&Row], adapters: usize, tables: &mut Vec<u32>) -> MatmulRows {
    let numbered = || (0_u32..).zip(rows);
    let slots = rows.iter().map(|row| u32::try_from(row.adapter).unwrap_or(NO_ADAPTER));
    let adapters_at = list(tables, 1, slots).at;
    let of_kind =
        |strategy| numbered().filter(move |(_, r)| Strategy::of(r.kind) == strategy).map(|(i, _)| i);
    let decode = list(tables, 1, of_kind(Strategy::Decode));
    let prefill = list(tables, 1, of_kind(Strategy::Prefill));

    let mut groups = Vec::new();
    let mut group_sizes = Vec::new();
    let mut used = Vec::new();
    for slot in 0..adapters {
        let of_slot = |row: &Row| usize::try_from(row.adapter) == Ok(slot);
        let own: Vec<u32> = numbered().filter(|(_, r)| of_slot(r)).map(|(i, _)| i).collect();
        if !own.is_empty() {
            used.push(slot);
        }
        for group in own.chunks(ROW_TILE as usize) {
            groups.extend([word(slot), word(group.len())]);
            group_sizes.push((slot, word(group.len())));
            groups.extend((0..ROW_TILE as usize).map(|i| group[i.min(group.len() - 1)]));
        }
    }
    let groups = list(tables, 2 + ROW_TILE as usize, groups);
    let slots = |strategy| {
        let own = rows.iter().filter(move |row| Strategy::of(row.kind) == strategy);
        own.map(|row| usize::try_from(row.adapter).ok()).collect()
    };
    let (decode_slots, prefill_slots) = (slots(Strategy::Decode), slots(Strategy::Prefill));
    MatmulRows { adapters_at, decode, prefill, groups, used, group_sizes, decode_slots, prefill_slots }
}

/// Where a block begins, with which pages of K and V, or over which, and whether any of its pages is coded.
type BlockStart = (u32, Option<[u32; 2]>, bool);

/// A block of a generated row.
#[derive(Debug, Clone, Copy)]
struct Block {
    row: u32,
    state: u32,
    length: u32,
}

impl Block {
    /// Chunks of the row's sequence.
    const fn chunks(self) -> usize {
        (self.length as usize).div_ceil(CHUNK_TOKENS)
    }
}

/// Neighbouring tokens whose coded keys are read at once.
const KEYS: usize = CODED_KEYS as usize;

/// The coded pages of a band, and what they load.
struct Coded<'a> {
    parts: &'a PartTables,
    loads: PartLoads,
}

impl Coded<'_> {
    fn parts(&self, row: &Row, chunk: usize) -> Option<[Parts; 2]> {
        self.parts.sequences.get(row.sequence as usize)?.get(chunk).copied()
    }

    /// What a chunk's pages are, or lie over.
    fn bases(&self, row: &Row, chunk: usize) -> Option<[Part; 2]> {
        Some(self.parts(row, chunk)?.map(Parts::base))
    }

    /// Whether any of a sequence's pages is coded, from one chunk to below another.
    fn has_any(&self, row: &Row, chunks: std::ops::Range<usize>) -> bool {
        let parts = self.parts.sequences.get(row.sequence as usize).map_or(&[][..], Vec::as_slice);
        let chunks = chunks.start.min(parts.len())..chunks.end.min(parts.len());
        parts[chunks].iter().flatten().any(|parts| !parts.is_exact())
    }

    /// Bytes that rows load of a block from `first` on together, the longest of them first.
    fn reads(&mut self, rows: &[Row], group: &[Block], first: u32, read: BlockRead) -> u64 {
        let end = (first + read.count) as usize;
        let skipped = (first + read.skipped) as usize;
        let keys = (skipped / KEYS * KEYS..end).step_by(KEYS).map(|at| (at, 0, KEYS));
        let values = (skipped / CHUNK_TOKENS * CHUNK_TOKENS..end).map(|at| (at, 1, 1));
        let mut bytes = 0;
        for (token, half, width) in keys.chain(values) {
            let (chunk, at) = (token / CHUNK_TOKENS, token % CHUNK_TOKENS / width);
            let of = |block: &Block| self.parts(&rows[block.row as usize], chunk);
            let Some(theirs) = group.first().and_then(of) else { continue };
            let others: Vec<[Parts; 2]> =
                group.iter().skip(1).filter(|block| chunk < block.chunks()).filter_map(of).collect();
            bytes += self.loads.page(theirs[half], at);
            for own in &others {
                bytes += self.loads.beside(own[half], theirs[half], at);
            }
        }
        bytes
            + group
                .iter()
                .map(|block| self.sums(&rows[block.row as usize], block.chunks(), first, read))
                .sum::<u64>()
    }

    /// Bytes of coefficients of values that one vector loads of a block from `first` on, of the chunks below a number.
    fn sums(&self, row: &Row, chunks: usize, first: u32, read: BlockRead) -> u64 {
        let (from, end) = ((first + read.skipped) as usize, (first + read.count) as usize);
        let chunks = from / CHUNK_TOKENS..end.div_ceil(CHUNK_TOKENS).min(chunks);
        let pages = chunks.filter_map(|chunk| {
            let [_, values] = self.parts(row, chunk)?;
            Some((values, (end - chunk * CHUNK_TOKENS).min(CHUNK_TOKENS)))
        });
        self.loads.sums(&pages.collect::<Vec<_>>())
    }
}

fn attention_rows(
    rows: &[Row],
    tile: AttentionTiles,
    page: impl Fn(&Row, usize) -> Option<[u32; 2]>,
    mut coded: Option<Coded<'_>>,
    tables: &mut Vec<u32>,
) -> AttentionRows {
    const SPLIT: u32 = ATTENTION_SPLIT as u32;
    // Blocks that begin at the same position with the same page, in the order in which they appear.
    let mut together: Vec<(BlockStart, Vec<Block>)> = Vec::new();
    let mut index = HashMap::new();
    let mut merges = Vec::new();
    let mut tiles = Vec::new();
    let mut tile_blocks = Vec::new();
    let mut coded_tiles = Vec::new();
    let mut coded_rows = CodedRows::default();
    let mut states = 0;
    let mut first_row = 0;
    for run in rows.chunk_by(|a, b| a.sequence == b.sequence && a.kind == b.kind) {
        match Strategy::of(run[0].kind) {
            Strategy::Decode => {
                for (row, number) in run.iter().zip(first_row..) {
                    let length = row.position + 1;
                    let blocks = seen_from(length, tile.window) / SPLIT..row.position / SPLIT + 1;
                    merges.extend([number, states, word(blocks.len())]);
                    for first in blocks.map(|block| block * SPLIT) {
                        let chunk = first as usize / CHUNK_TOKENS;
                        let chunks = chunk..length.min(first + SPLIT).div_ceil(CHUNK_TOKENS as u32) as usize;
                        let of_block = coded.as_ref().filter(|coded| coded.has_any(row, chunks));
                        let start = match of_block {
                            Some(coded) => {
                                coded.parts(row, chunk).map(|parts| parts.map(|parts| parts.base().at()))
                            }
                            None => page(row, chunk),
                        };
                        let key = (first, start, of_block.is_some());
                        let at = *index.entry(key).or_insert_with(|| {
                            together.push((key, Vec::new()));
                            together.len() - 1
                        });
                        together[at].1.push(Block { row: number, state: states, length });
                        states += 1;
                    }
                }
            }
            Strategy::Prefill => {
                let size = tile.prefill as usize;
                // Rows before the first coded page, then those behind it.
                let exact = coded.as_ref().map_or(run.len(), |coded| {
                    let is_exact =
                        |row: &Row| !coded.has_any(row, 0..row.position as usize / CHUNK_TOKENS + 1);
                    run.partition_point(is_exact)
                });
                let (exact, behind) = run.split_at(exact);
                for (rows, at) in exact.chunks(size).zip((first_row..).step_by(size)) {
                    tiles.extend([at, word(rows.len())]);
                    tile_blocks.push(tile_reads(rows, tile.window));
                }
                let first_behind = first_row + word(exact.len());
                for (rows, at) in behind.chunks(size).zip((first_behind..).step_by(size)) {
                    coded_tiles.extend([at, word(rows.len())]);
                    if let Some(coded) = &mut coded {
                        coded_rows.tile_pages += tile_bytes(coded, rows, tile);
                    }
                }
            }
        }
        first_row += word(run.len());
    }
    let (mut alone, mut shared) = (Vec::new(), Vec::new());
    let (mut alone_blocks, mut shared_blocks) = (Vec::new(), Vec::new());
    let (mut coded_alone, mut coded_shared) = (Vec::new(), Vec::new());
    for ((first, _, is_coded), mut blocks) in together {
        blocks.sort_by_key(|block| std::cmp::Reverse(block.length));
        for group in blocks.chunks(tile.shared.max(1) as usize) {
            let is_alone = group.len() == 1;
            let width = if is_alone { 1 } else { tile.shared as usize };
            let reads = group_reads(rows, group, first, tile.window, &page);
            let is_same = |a: &Block, b: &Block, chunk: usize| {
                let [a, b] = [a, b].map(|block| &rows[block.row as usize]);
                match coded.as_ref().filter(|_| is_coded) {
                    Some(coded) => coded.bases(a, chunk) == coded.bases(b, chunk),
                    None => page(a, chunk) == page(b, chunk),
                }
            };
            let together = together_from(group, first, is_same);
            let items = match (&mut coded, is_alone) {
                (Some(coded), true) if is_coded => {
                    coded_rows.alone_pages += coded.reads(rows, group, first, reads);
                    &mut coded_alone
                }
                (Some(coded), false) if is_coded => {
                    coded_rows.shared_pages += coded.reads(rows, group, first, reads);
                    &mut coded_shared
                }
                (_, true) => {
                    alone_blocks.push(reads);
                    &mut alone
                }
                (_, false) => {
                    shared_blocks.push(reads);
                    &mut shared
                }
            };
            items.extend([first, word(group.len()), together]);
            items.extend((0..width).flat_map(|i| {
                let block = group[i.min(group.len() - 1)];
                [block.row, block.state]
            }));
        }
    }
    coded_rows.alone = list(tables, ITEM_WORDS + 2, coded_alone);
    coded_rows.shared = list(tables, ITEM_WORDS + 2 * tile.shared as usize, coded_shared);
    coded_rows.tiles = list(tables, 2, coded_tiles);
    AttentionRows {
        coded: coded_rows,
        alone: list(tables, ITEM_WORDS + 2, alone),
        shared: list(tables, ITEM_WORDS + 2 * tile.shared as usize, shared),
        merges: list(tables, 3, merges),
        states,
        tiles: list(tables, 2, tiles),
        alone_blocks,
        shared_blocks,
        tile_blocks,
    }
}

/// Words of a block before its rows.
const ITEM_WORDS: usize = 3;

/// Tokens of the block from `first` on whose pages, or what they lie over, are the same for all rows, up to the first chunk
/// where they are not. What a row does not reach is as the longest one's.
fn together_from(group: &[Block], first: u32, is_same: impl Fn(&Block, &Block, usize) -> bool) -> u32 {
    let first = first as usize / CHUNK_TOKENS;
    let all_same = |chunk: &usize| {
        let mut others = group.iter().skip(1).filter(|block| *chunk < block.chunks());
        others.all(|block| is_same(&group[0], block, *chunk))
    };
    let chunks = ATTENTION_SPLIT / CHUNK_TOKENS;
    word((first..first + chunks).take_while(all_same).count() * CHUNK_TOKENS)
}

/// The first position that a row of so many tokens sees.
fn seen_from(length: u32, window: Option<u32>) -> u32 {
    window.map_or(0, |window| length.saturating_sub(window))
}

/// What a tile of prompt rows reads of each block.
fn tile_reads(rows: &[Row], window: Option<u32>) -> Vec<BlockRead> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Vec::new() };
    let (from, to) = (seen_from(first.position + 1, window), last.position + 1);
    let split = ATTENTION_SPLIT as u32;
    let blocks = (from / split..to.div_ceil(split)).map(|block| block * split);
    blocks.map(|at| BlockRead { skipped: from.max(at) - at, count: (to - at).min(split), again: 0 }).collect()
}

/// Bytes of coded pages that a tile of prompt rows loads: coefficients of values once for each vector of rows.
fn tile_bytes(coded: &mut Coded<'_>, rows: &[Row], tile: AttentionTiles) -> u64 {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return 0 };
    let split = ATTENTION_SPLIT as u32;
    let from = seen_from(first.position + 1, tile.window) / split * split;
    let block = Block { row: 0, state: 0, length: last.position + 1 };
    let again = u64::from(tile.prefill.div_ceil(4) - 1);
    let starts = (from..).step_by(ATTENTION_SPLIT);
    let reads = tile_reads(rows, tile.window);
    let bytes = reads.iter().zip(starts).map(|(read, at)| {
        let once = coded.reads(std::slice::from_ref(last), &[block], at, *read);
        once + again * coded.sums(last, block.chunks(), at, *read)
    });
    bytes.sum()
}

/// What generated rows read of a block together: a page that is not the first row's is read once more.
fn group_reads(
    rows: &[Row],
    group: &[Block],
    first: u32,
    window: Option<u32>,
    page: &impl Fn(&Row, usize) -> Option<[u32; 2]>,
) -> BlockRead {
    let longest = group.first().map_or(first, |block| block.length);
    let starts = group.iter().map(|block| seen_from(block.length, window).max(first) - first);
    let mut read = BlockRead {
        skipped: starts.min().unwrap_or_default(),
        count: (longest - first).min(ATTENTION_SPLIT as u32),
        again: 0,
    };
    let pages = |block: &Block, chunk: usize| page(&rows[block.row as usize], chunk);
    for block in group.iter().skip(1) {
        // Keys from the first token that is seen, values from its chunk's first.
        for token in (first + read.skipped) / CHUNK_TOKENS as u32 * CHUNK_TOKENS as u32..first + read.count {
            let chunk = token as usize / CHUNK_TOKENS;
            let halves = if token < first + read.skipped { 1..2 } else { 0..2 };
            let own = (chunk < (block.length as usize).div_ceil(CHUNK_TOKENS)).then(|| pages(block, chunk));
            if let (Some(Some(own)), Some(theirs)) = (own, pages(&group[0], chunk)) {
                read.again += halves.map(|half| u32::from(own[half] != theirs[half])).sum::<u32>();
            }
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use interleaf_contract::RowKind;

    use super::*;

    fn row(sequence: u32, position: u32, adapter: i32, kind: RowKind) -> Row {
        Row { token: 0, position, sequence, adapter, kind }
    }

    fn words(tables: &[u32], list: List, width: usize) -> &[u32] {
        &tables[list.at as usize..][..list.count as usize * width]
    }

    #[test]
    fn rows_are_grouped_by_kind_and_by_adapter() {
        use RowKind::{Generated, Prompt};
        let adapters = [1, -1, 1, 1, 0, 1, 1];
        let kinds = [Generated, Prompt, Prompt, Generated, Generated, Generated, Prompt];
        let rows: Vec<Row> =
            adapters.iter().zip(kinds).zip(0..).map(|((a, kind), p)| row(0, p, *a, kind)).collect();
        let mut tables = vec![9; 3];
        let found = matmul_rows(&rows.iter().collect::<Vec<_>>(), 3, &mut tables);
        assert_eq!(found.adapters_at, 3);
        assert_eq!(tables[3..10], [1, NO_ADAPTER, 1, 1, 0, 1, 1]);
        assert_eq!(words(&tables, found.decode, 1), [0, 3, 4, 5]);
        assert_eq!(words(&tables, found.prefill, 1), [1, 2, 6]);
        let groups = [[0, 1, 4, 4, 4, 4], [1, 4, 0, 2, 3, 5], [1, 1, 6, 6, 6, 6]];
        assert_eq!(words(&tables, found.groups, 6), groups.as_flattened());
        assert_eq!(found.used, [0, 1]);
        assert_eq!(found.group_sizes, [(0, 1), (1, 4), (1, 1)]);
        assert_eq!(found.decode_slots, [Some(1), Some(1), Some(0), Some(1)]);
        assert_eq!(found.prefill_slots, [None, Some(1), Some(1)]);
    }

    const ALONE: AttentionTiles = AttentionTiles { shared: 1, prefill: 2, window: None };

    #[test]
    fn attention_splits_at_fixed_positions_and_tiles_within_sequences() {
        use RowKind::{Generated, Prompt};
        let rows: Vec<Row> = [(0, 255, Generated), (1, 7, Prompt), (1, 8, Prompt), (1, 9, Prompt)]
            .into_iter()
            .chain([(2, 4, Prompt), (3, 256, Generated)])
            .map(|(s, p, kind)| row(s, p, -1, kind))
            .collect();
        let mut tables = Vec::new();
        let page = |row: &Row, _| Some([row.sequence; 2]);
        let found = attention_rows(&rows, ALONE, page, None, &mut tables);
        let alone = [[0, 1, 256, 0, 0], [0, 1, 256, 5, 1], [256, 1, 256, 5, 2]];
        assert_eq!(words(&tables, found.alone, 5), alone.as_flattened());
        assert_eq!(words(&tables, found.merges, 3), [0, 0, 1, 5, 1, 2]);
        assert_eq!(words(&tables, found.tiles, 2), [1, 2, 3, 1, 4, 1]);
        assert_eq!((found.states, found.shared.count), (3, 0));
        let windowed = AttentionTiles { window: Some(1), ..ALONE };
        let found = attention_rows(&rows, windowed, page, None, &mut tables);
        assert_eq!(words(&tables, found.alone, 5), [[0, 1, 256, 0, 0], [256, 1, 256, 5, 1]].as_flattened());
    }

    #[test]
    fn blocks_with_the_same_first_page_are_read_together_longest_first() {
        let rows: Vec<Row> = [10, 300, 30, 20, 5]
            .into_iter()
            .zip(0..)
            .map(|(p, s)| row(s, p, -1, RowKind::Generated))
            .collect();
        let mut tables = Vec::new();
        let page =
            |row: &Row, chunk| Some([if row.sequence == 3 || chunk > 0 { row.sequence } else { 9 }; 2]);
        let tiles = AttentionTiles { shared: 3, ..ALONE };
        let found = attention_rows(&rows, tiles, page, None, &mut tables);
        // Rows 1, 2 and 0 share a workgroup and the first chunk's tokens; row 4 shares their page too, but is one too many.
        assert_eq!(words(&tables, found.shared, 9), [0, 3, 16, 1, 1, 2, 3, 0, 0]);
        let alone = [[0, 1, 256, 4, 5], [256, 1, 256, 1, 2], [0, 1, 256, 3, 4]];
        assert_eq!(words(&tables, found.alone, 5), alone.as_flattened());
        // Of row 2 and row 0 the first page is row 1's, the others are not: K and V of the second chunk's tokens of
        // row 2, which is as long as 31.
        assert_eq!(found.shared_blocks, [BlockRead { skipped: 0, count: 256, again: 2 * 16 }]);
    }
}
