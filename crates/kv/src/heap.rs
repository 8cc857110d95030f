//! A queue of nodes by worth, the least first, from which any can be taken: a heap of four children a node, each entry's
//! place kept in its node. Worths are as they were when they were put in; who changes one puts it in again.

use crate::node::{NONE, Node};
use crate::policy::Worth;

/// The second part of a worth only decides among equals, and half the digits will do.
#[derive(Debug, Clone, Copy)]
struct Entry {
    worth: f64,
    then: f32,
    node: u32,
}

impl Entry {
    const fn new(Worth(worth, then): Worth, node: u32) -> Self {
        Self { worth, then: then as f32, node }
    }

    fn is_below(&self, other: &Self) -> bool {
        self.worth.total_cmp(&other.worth).then(self.then.total_cmp(&other.then)).is_lt()
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
        self.entries.get(place).map(|entry| entry.node)
    }

    /// The node of the least worth.
    pub fn first(&self) -> Option<u32> {
        self.at(0)
    }

    /// Puts a node in, or to its place by a new worth.
    pub fn put(&mut self, nodes: &mut [Node], node: u32, worth: Worth) {
        let place = match nodes[node as usize].places[self.which] {
            NONE => {
                self.entries.push(Entry::new(worth, node));
                self.entries.len() - 1
            }
            place => {
                self.entries[place as usize] = Entry::new(worth, node);
                place as usize
            }
        };
        let place = self.rise(nodes, place);
        self.sink(nodes, place);
    }

    /// Takes a node out, if it is in.
    pub fn take(&mut self, nodes: &mut [Node], node: u32) {
        let place = std::mem::replace(&mut nodes[node as usize].places[self.which], NONE);
        if place == NONE {
            return;
        }
        self.entries.swap_remove(place as usize);
        if (place as usize) < self.entries.len() {
            let place = self.rise(nodes, place as usize);
            self.sink(nodes, place);
        }
    }

    fn rise(&mut self, nodes: &mut [Node], mut place: usize) -> usize {
        let entry = self.entries[place];
        while place > 0 {
            let above = (place - 1) / 4;
            if !entry.is_below(&self.entries[above]) {
                break;
            }
            self.set(nodes, place, self.entries[above]);
            place = above;
        }
        self.set(nodes, place, entry);
        place
    }

    fn sink(&mut self, nodes: &mut [Node], mut place: usize) {
        let entry = self.entries[place];
        loop {
            let below = 4 * place + 1..(4 * place + 5).min(self.entries.len());
            let least = below.reduce(|a, b| if self.entries[b].is_below(&self.entries[a]) { b } else { a });
            let Some(least) = least else { break };
            if !self.entries[least].is_below(&entry) {
                break;
            }
            self.set(nodes, place, self.entries[least]);
            place = least;
        }
        self.set(nodes, place, entry);
    }

    fn set(&mut self, nodes: &mut [Node], place: usize, entry: Entry) {
        self.entries[place] = entry;
        nodes[entry.node as usize].places[self.which] = place as u32;
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
