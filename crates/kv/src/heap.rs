//! A queue of nodes by worth, the least first, from which any can be taken: a heap of four children a node, each entry's
//! place kept in its node. Worths are as they were when they were put in; who changes one puts it in again.

use crate::node::{NONE, Node};
use crate::policy::Worth;

/// A worth as whole numbers of the same order, which are compared without a branch, and its node. The second part of a
/// worth only decides among equals, and half the digits will do.
#[derive(Debug, Clone, Copy)]
struct Entry {
    worth: i64,
    /// The second part in the upper half, the node in the lower.
    then: u64,
}

impl Entry {
    const fn new(Worth(worth, then): Worth, node: u32) -> Self {
        let (worth, then) = (worth.to_bits() as i64, (then as f32).to_bits() as i32);
        // All bits of negative numbers but the sign turn round, as in `total_cmp`.
        let worth = worth ^ ((worth >> 63) as u64 >> 1) as i64;
        let then = then ^ ((then >> 31) as u32 >> 1) as i32;
        let then = then as u32 ^ 1 << 31;
        Self { worth, then: (then as u64) << 32 | node as u64 }
    }

    const fn node(&self) -> u32 {
        self.then as u32
    }

    fn order(&self) -> i128 {
        let then = self.then & !u64::from(u32::MAX);
        i128::from(self.worth) << 64 | i128::from(then)
    }

    fn is_below(&self, other: &Self) -> bool {
        self.order() < other.order()
    }
}

/// The queue. `which` of a node's places it keeps is its own for as long as it lives.
#[derive(Debug)]
pub struct Heap {
    which: usize,
    entries: Vec<Entry>,
}

impl Heap {
    pub const fn new(which: usize) -> Self {
        Self { which, entries: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The node at a place, for walks over all of them.
    pub fn at(&self, place: usize) -> Option<u32> {
        self.entries.get(place).map(Entry::node)
    }

    /// The node of the least worth.
    pub fn first(&self) -> Option<u32> {
        self.at(0)
    }

    /// Puts a node in, or to its place by a new worth.
    pub fn put(&mut self, nodes: &mut [Node], node: u32, worth: Worth) {
        let entry = Entry::new(worth, node);
        let place = match nodes[node as usize].places[self.which] {
            NONE => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
            place => place as usize,
        };
        self.settle(nodes, place, entry);
    }

    /// Takes a node out, if it is in.
    pub fn take(&mut self, nodes: &mut [Node], node: u32) {
        let place = std::mem::replace(&mut nodes[node as usize].places[self.which], NONE);
        if place == NONE {
            return;
        }
        self.entries.swap_remove(place as usize);
        if let Some(entry) = self.entries.get(place as usize).copied() {
            self.settle(nodes, place as usize, entry);
        }
    }

    /// Puts an entry where it belongs, from a place that is to be filled.
    fn settle(&mut self, nodes: &mut [Node], from: usize, entry: Entry) {
        let mut place = self.rise(nodes, from, entry);
        // What has risen is below all that was below what it took the place of.
        if place == from {
            place = self.sink(nodes, from, entry);
        }
        self.set(nodes, place, entry);
    }

    fn rise(&mut self, nodes: &mut [Node], mut place: usize, entry: Entry) -> usize {
        while place > 0 {
            let above = (place - 1) / 4;
            if !entry.is_below(&self.entries[above]) {
                break;
            }
            self.set(nodes, place, self.entries[above]);
            place = above;
        }
        place
    }

    fn sink(&mut self, nodes: &mut [Node], mut place: usize, entry: Entry) -> usize {
        while let Some((least, below)) = self.least_below(place)
            && below.is_below(&entry)
        {
            self.set(nodes, place, below);
            place = least;
        }
        place
    }

    /// The least of the up to four entries below a place.
    fn least_below(&self, place: usize) -> Option<(usize, Entry)> {
        let first = 4 * place + 1;
        let least = |a: (usize, Entry), b: (usize, Entry)| if b.1.is_below(&a.1) { b } else { a };
        match *self.entries.get(first..)? {
            [a, b, c, d, ..] => {
                Some(least(least((first, a), (first + 1, b)), least((first + 2, c), (first + 3, d))))
            }
            ref few => (first..).zip(few.iter().copied()).reduce(least),
        }
    }

    fn set(&mut self, nodes: &mut [Node], place: usize, entry: Entry) {
        self.entries[place] = entry;
        nodes[entry.node() as usize].places[self.which] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blocks::{Piece, State};
    use crate::node::{BASE, Kind};

    /// Bytes that a chunk takes of the host's memory apart from its pages: its node, and a place in the queue of the one
    /// tier that it may go from next. A page that has a block to itself takes its name and what is known of the block.
    #[test]
    fn a_chunk_takes_two_hundred_bytes_and_a_page_eight() {
        let chunk = size_of::<Node>() + size_of::<Entry>();
        assert!(chunk <= 200, "{} and {}", size_of::<Node>(), size_of::<Entry>());
        assert_eq!(size_of::<Piece>() + size_of::<State>(), 8);
    }

    proptest! {
        #[test]
        fn the_least_comes_first(
            events in prop::collection::vec((0_usize..20, prop::option::weighted(0.8, -50.0..50.0_f64)), 1..200),
        ) {
            let mut nodes = vec![Node::new(Kind::Shared, BASE); 20];
            let mut heap = Heap::new(1);
            let mut worths = [None; 20];
            for (node, worth) in events {
                worths[node] = worth;
                match worth {
                    Some(worth) => heap.put(&mut nodes, node as u32, Worth(worth, 0.0)),
                    None => heap.take(&mut nodes, node as u32),
                }
                let least = worths.iter().flatten().copied().fold(f64::INFINITY, f64::min);
                let first = heap.first().map(|node| worths[node as usize].unwrap());
                prop_assert_eq!(first.unwrap_or(f64::INFINITY), least);
                prop_assert_eq!(heap.len(), worths.iter().flatten().count());
                for (node, worth) in nodes.iter().zip(worths) {
                    prop_assert_eq!(node.places[1] != NONE, worth.is_some());
                }
            }
        }
    }
}
