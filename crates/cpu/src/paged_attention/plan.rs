//! Who computes what of an attention layer: groups of rows that read the same pages, or differences from the same ones,
//! and what each row merges.
//!
//! A plan depends on the batch, the layer's pages, heads and window alone, so that the layers of a band share one.

use std::collections::HashMap;
use std::ops::Range;

use interleaf_contract::{
    ATTENTION_SPLIT, AttentionShape, Batch, CHUNK_TOKENS, ChunkEntry, PageEntry, PagePlace, Row, RowKind,
};

use crate::region::Worker;

/// Prompt rows of one group: enough to pay for decoding a block, few enough to spread over cores.
const ROW_TILE: usize = 16;

/// Chunks of a block.
pub const CHUNKS: usize = ATTENTION_SPLIT / CHUNK_TOKENS;

/// Rows that go through a range of blocks together; one task for each key/value head.
pub struct Group<'a> {
    /// By whose pages they read. All have the same anchors in the group's blocks.
    members: Vec<Reader<'a>>,
    pub kind: RowKind,
    pub blocks: Range<usize>,
    /// The rows of all groups before it.
    before: usize,
    /// Tokens that its rows see, which is what a task takes, and some for beginning it.
    work: usize,
}

/// Rows that read the same pages.
struct Reader<'a> {
    /// The pages of its first row's sequence, by chunk; the others have the same in the group's blocks.
    pages: &'a [ChunkEntry],
    /// Indices of the rows in the batch.
    rows: Vec<usize>,
}

/// Rows of a group that read the same pages.
pub struct Member<'a> {
    pub pages: &'a [ChunkEntry],
    /// Which of the group's.
    pub rows: Range<usize>,
}

impl<'a> Group<'a> {
    /// Rows.
    pub fn count(&self) -> usize {
        self.members.iter().map(|member| member.rows.len()).sum()
    }

    /// Indices of the rows in the batch, one member's after another's.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        self.members.iter().flat_map(|member| member.rows.iter().copied())
    }

    /// The members with their rows.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> {
        self.members.iter().scan(0, |first, member| {
            let rows = *first..*first + member.rows.len();
            *first = rows.end;
            Some(Member { pages: member.pages, rows })
        })
    }

    /// The pages of one of the members.
    pub fn pages(&self) -> &'a [ChunkEntry] {
        self.members.first().map_or(&[], |member| member.pages)
    }

    fn join(&mut self, pages: &'a [ChunkEntry], rows: Range<usize>) {
        let block = self.blocks.start;
        let own = whole(pages, block);
        match self.members.iter_mut().find(|member| whole(member.pages, block) == own) {
            Some(member) => member.rows.extend(rows),
            None => self.members.push(Reader { pages, rows: rows.collect() }),
        }
    }
}

/// Where a row's share of a group is.
#[derive(Debug, Clone, Copy)]
struct Share {
    first_block: usize,
    group: usize,
    /// Which of the group's rows.
    row: usize,
}

/// The groups of a layer and what is merged of them.
pub struct Plan<'a> {
    pub groups: Vec<Group<'a>>,
    /// For every row of the batch, in ascending blocks.
    shares: Vec<Vec<Share>>,
    kv_heads: usize,
    heads_of_group: usize,
}

impl<'a> Plan<'a> {
    /// Plans a layer, and with it all layers in which every sequence has the same pages.
    pub fn new(batch: &'a Batch, layer: usize, shape: AttentionShape) -> Self {
        let mut groups: Vec<Group<'a>> = Vec::new();
        let mut shared: HashMap<(usize, u32, u32), Vec<usize>> = HashMap::new();
        for (sequence, first, count) in batch.runs() {
            let pages = batch.sequences[sequence].pages.entries(layer);
            let mut next = first;
            while next < first + count {
                let kind = batch.rows[next].kind;
                let tile = if kind == RowKind::Prompt { ROW_TILE } else { 1 };
                let last = (next + tile).min(first + count);
                let alike = batch.rows[next..last].iter().take_while(|r| r.kind == kind).count();
                let rows = next..next + alike;
                let first_block = shape.first_visible(batch.rows[next].position) as usize / ATTENTION_SPLIT;
                let blocks = first_block..batch.rows[rows.end - 1].position as usize / ATTENTION_SPLIT + 1;
                let group = |blocks| {
                    let members = vec![Reader { pages, rows: rows.clone().collect() }];
                    Group { members, kind, blocks, before: 0, work: 0 }
                };
                if kind == RowKind::Prompt {
                    groups.push(group(blocks));
                } else {
                    for block in blocks {
                        let own = whole(pages, block);
                        let candidates = own
                            .and_then(|own| own.first())
                            .map(|entry| [entry.k, entry.v].map(|entry| anchor(entry).at))
                            .map(|[k, v]| shared.entry((block, k, v)).or_default());
                        let same = candidates.as_ref().and_then(|candidates| {
                            candidates
                                .iter()
                                .find(|&&other| same_anchors(groups[other].pages(), pages, block))
                        });
                        match same {
                            Some(&other) => groups[other].join(pages, rows.clone()),
                            None => {
                                if let Some(candidates) = candidates {
                                    candidates.push(groups.len());
                                }
                                groups.push(group(block..block + 1));
                            }
                        }
                    }
                }
                next += alike;
            }
        }
        Self::of(groups, &batch.rows, shape)
    }

    fn of(mut groups: Vec<Group<'a>>, rows: &[Row], shape: AttentionShape) -> Self {
        let mut shares: Vec<Vec<Share>> = vec![Vec::new(); rows.len()];
        let mut before = 0;
        for (index, group) in groups.iter_mut().enumerate() {
            group.before = before;
            before += group.count();
            let [start, end] = [group.blocks.start, group.blocks.end].map(|block| block * ATTENTION_SPLIT);
            let seen = |row: usize| {
                let position = rows[row].position;
                let first = start.max(shape.first_visible(position) as usize);
                end.min(position as usize + 1).saturating_sub(first)
            };
            group.work = group.rows().map(|row| CHUNK_TOKENS + seen(row)).sum();
            for (i, row) in group.rows().enumerate() {
                shares[row].push(Share { first_block: group.blocks.start, group: index, row: i });
            }
        }
        // A row may have joined an older group for a later block than it made a new one for.
        shares.iter_mut().for_each(|shares| shares.sort_unstable_by_key(|share| share.first_block));
        let (kv_heads, heads) = (shape.kv_heads as usize, shape.heads as usize);
        Self { groups, shares, kv_heads, heads_of_group: heads / kv_heads }
    }

    /// A worker's tasks, a group's for every key/value head and then the next group's: as much work as any other's, and
    /// neighbours, whose pages lie side by side.
    pub fn tasks(&self, worker: &Worker<'_>) -> Range<usize> {
        let all: usize = self.groups.iter().map(|group| group.work).sum::<usize>() * self.kv_heads;
        let before = |worker_index: usize| {
            let mut work = all * worker_index / worker.count;
            let mut tasks = 0;
            for group in &self.groups {
                if work < group.work * self.kv_heads {
                    // A task goes to whom most of it falls to.
                    return tasks + (work + group.work / 2) / group.work;
                }
                work -= group.work * self.kv_heads;
                tasks += self.kv_heads;
            }
            tasks
        };
        before(worker.index)..before(worker.index + 1)
    }

    /// Which group a task is of, its key/value head, and its partials: rows × heads that share the key/value head.
    pub fn task(&self, index: usize) -> (usize, usize, Range<usize>) {
        let (of, kv_head) = (index / self.kv_heads, index % self.kv_heads);
        let group = &self.groups[of];
        let first = self.first_partial(group, kv_head);
        (of, kv_head, first..first + group.count() * self.heads_of_group)
    }

    /// How many partials all tasks leave.
    pub fn partials(&self) -> usize {
        self.groups
            .last()
            .map_or(0, |last| (last.before + last.count()) * self.kv_heads * self.heads_of_group)
    }

    /// The partials of a row and a key/value head in ascending blocks, each the first of its heads.
    pub fn merges(&self, row: usize, kv_head: usize) -> impl Iterator<Item = usize> {
        self.shares[row].iter().map(move |share| {
            let group = &self.groups[share.group];
            self.first_partial(group, kv_head) + share.row * self.heads_of_group
        })
    }

    /// The first block of each of them.
    pub fn blocks(&self, row: usize) -> impl Iterator<Item = usize> {
        self.shares[row].iter().map(|share| share.first_block)
    }

    fn first_partial(&self, group: &Group<'a>, kv_head: usize) -> usize {
        (group.before * self.kv_heads + kv_head * group.count()) * self.heads_of_group
    }
}

/// The pages of a block, if the table has all of them: rows that end within a block share nothing of it.
fn whole(pages: &[ChunkEntry], block: usize) -> Option<&[ChunkEntry]> {
    pages.get(block * CHUNKS..(block + 1) * CHUNKS)
}

/// What a page is a difference from; itself where it is none.
pub fn anchor(entry: PageEntry) -> PagePlace {
    entry.anchor.unwrap_or(entry.place())
}

/// Whether the pages of a block are the same, or differences from the same ones.
fn same_anchors(a: &[ChunkEntry], b: &[ChunkEntry], block: usize) -> bool {
    let anchors = |entry: &ChunkEntry| [entry.k, entry.v].map(anchor);
    match (whole(a, block), whole(b, block)) {
        (Some(a), Some(b)) => a.iter().map(anchors).eq(b.iter().map(anchors)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Barrier;

    fn plan(work: &[usize], kv_heads: usize) -> Plan<'static> {
        let group = |work: &usize| Group {
            members: Vec::new(),
            kind: RowKind::Generated,
            blocks: 0..1,
            before: 0,
            work: *work,
        };
        let groups = work.iter().map(group).collect();
        Plan { groups, shares: Vec::new(), kv_heads, heads_of_group: 1 }
    }

    #[test]
    fn every_task_is_somebodys_and_nobody_has_much_more_than_his_part() {
        let all: [&[usize]; 6] =
            [&[], &[17], &[272, 60], &[10, 1], &[272, 272, 272, 17, 17, 17], &[1000, 1, 1, 1, 700]];
        for (work, kv_heads) in all.iter().flat_map(|work| [1, 2, 3, 8].map(|kv_heads| (*work, kv_heads))) {
            let plan = plan(work, kv_heads);
            let sum: usize = work.iter().sum::<usize>() * kv_heads;
            let largest = work.iter().max().copied().unwrap_or(0);
            for workers in [1, 2, 3, 4, 7, 64] {
                let barrier = Barrier::new(workers);
                let mut next = 0;
                for index in 0..workers {
                    let tasks = plan.tasks(&Worker::new(index, &barrier));
                    assert_eq!(tasks.start, next, "{work:?} x {kv_heads}, {index} of {workers}");
                    next = tasks.end;
                    let own: usize = tasks.map(|task| work[task / kv_heads]).sum();
                    assert!(
                        own <= sum / workers + largest + 1,
                        "{work:?} x {kv_heads}, {index} of {workers}: {own}"
                    );
                }
                assert_eq!(next, work.len() * kv_heads, "{work:?} x {kv_heads} by {workers}");
            }
        }
        let loads = |workers: usize| -> Vec<usize> {
            let barrier = Barrier::new(workers);
            let plan = plan(&[272, 60], 2);
            let of =
                |index| plan.tasks(&Worker::new(index, &barrier)).map(|task| [272, 272, 60, 60][task]).sum();
            (0..workers).map(of).collect()
        };
        assert_eq!((loads(2), loads(3)), (vec![272, 392], vec![272, 272, 120]));
    }
}
