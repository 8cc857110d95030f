//! Row lists as kernels look them up: which rows are of which kind, which share an adapter, where each
//! stands in its sequence. Built once per step and row set, shared by all operations. Plain words; no
//! device here.

use interleaf_contract::{ATTENTION_SPLIT, Row, RowSet, Step};

use crate::command::word;
use crate::decide::{ROW_TILE, Strategy};

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
}

/// Rows as `paged_attention` sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttentionRows {
    /// `(row, first position)` of every block of every generated row.
    pub items: List,
    /// `(row, first item, items)` of every generated row.
    pub merges: List,
    /// `(first row, rows)` of tiles of prompt rows of one sequence.
    pub tiles: List,
}

/// What was built so far for one step. Pages are read and written by all rows, matmuls also by outputs.
#[derive(Debug, Default)]
pub(crate) struct RowTables {
    matmul: Vec<(RowSet, MatmulRows)>,
    records: Option<u32>,
    attention: Vec<(u32, AttentionRows)>,
}

impl RowTables {
    pub(crate) fn matmul(&mut self, step: &Step, rows: RowSet, tables: &mut Vec<u32>) -> &MatmulRows {
        once(&mut self.matmul, rows, || {
            let rows: Vec<&Row> = step.rows(rows).collect();
            matmul_rows(&rows, step.batch().adapters.len(), tables)
        })
    }

    /// Where `(position, sequence)` of each row is.
    pub(crate) fn records(&mut self, step: &Step, tables: &mut Vec<u32>) -> u32 {
        *self.records.get_or_insert_with(|| {
            let at = word(tables.len());
            tables.extend(step.batch().rows.iter().flat_map(|row| [row.position, row.sequence]));
            at
        })
    }

    /// For tiles of up to `tile` prompt rows.
    pub(crate) fn attention(&mut self, step: &Step, tile: u32, tables: &mut Vec<u32>) -> &AttentionRows {
        once(&mut self.attention, tile, || attention_rows(&step.batch().rows, tile, tables))
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
    let mut used = Vec::new();
    for slot in 0..adapters {
        let of_slot = |row: &Row| usize::try_from(row.adapter) == Ok(slot);
        let own: Vec<u32> = numbered().filter(|(_, r)| of_slot(r)).map(|(i, _)| i).collect();
        if !own.is_empty() {
            used.push(slot);
        }
        for group in own.chunks(ROW_TILE as usize) {
            groups.extend([word(slot), word(group.len())]);
            groups.extend((0..ROW_TILE as usize).map(|i| group[i.min(group.len() - 1)]));
        }
    }
    let groups = list(tables, 2 + ROW_TILE as usize, groups);
    MatmulRows { adapters_at, decode, prefill, groups, used }
}

fn attention_rows(rows: &[Row], tile: u32, tables: &mut Vec<u32>) -> AttentionRows {
    let mut items = Vec::new();
    let mut merges = Vec::new();
    let mut tiles = Vec::new();
    let mut first_row = 0;
    for run in rows.chunk_by(|a, b| a.sequence == b.sequence && a.kind == b.kind) {
        match Strategy::of(run[0].kind) {
            Strategy::Decode => {
                for (row, number) in run.iter().zip(first_row..) {
                    let first_item = items.len() / 2;
                    let blocks = row.position / ATTENTION_SPLIT as u32 + 1;
                    items.extend((0..blocks).flat_map(|b| [number, b * ATTENTION_SPLIT as u32]));
                    merges.extend([number, word(first_item), blocks]);
                }
            }
            Strategy::Prefill => {
                for (rows, at) in run.chunks(tile as usize).zip((first_row..).step_by(tile as usize)) {
                    tiles.extend([at, word(rows.len())]);
                }
            }
        }
        first_row += word(run.len());
    }
    AttentionRows {
        items: list(tables, 2, items),
        merges: list(tables, 3, merges),
        tiles: list(tables, 2, tiles),
    }
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
    }

    #[test]
    fn attention_splits_at_fixed_positions_and_tiles_within_sequences() {
        use RowKind::{Generated, Prompt};
        let rows: Vec<Row> = [(0, 255, Generated), (1, 7, Prompt), (1, 8, Prompt), (1, 9, Prompt)]
            .into_iter()
            .chain([(2, 4, Prompt), (3, 256, Generated)])
            .map(|(s, p, kind)| row(s, p, -1, kind))
            .collect();
        let mut tables = Vec::new();
        let found = attention_rows(&rows, 2, &mut tables);
        assert_eq!(words(&tables, found.items, 2), [0, 0, 5, 0, 5, 256]);
        assert_eq!(words(&tables, found.merges, 3), [0, 0, 1, 5, 1, 2]);
        assert_eq!(words(&tables, found.tiles, 2), [1, 2, 3, 1, 4, 1]);
    }
}
