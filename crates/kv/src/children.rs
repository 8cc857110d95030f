//! The children of a node, ordered by what they are: a treap whose links are in the children themselves. A search compares
//! tokens and nothing else, so no text can be found by another's, and no text makes searching slow: places depend on
//! nodes' numbers.
//!
//! Treaps: Seidel and Aragon, Randomized Search Trees, 1996.

use std::cmp::Ordering;

use crate::node::{NONE, Node};

/// What tells children of one node apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key<'a> {
    pub variant: u16,
    pub from: u8,
    pub is_lossy: bool,
    pub tokens: &'a [u32],
}

/// A node's own key.
pub fn key(node: &Node) -> Key<'_> {
    Key { variant: node.variant, from: node.from, is_lossy: node.drift > 0.0, tokens: node.text() }
}

/// The child of exactly this key.
pub fn find(nodes: &[Node], root: u32, wanted: Key<'_>) -> Option<u32> {
    let mut at = root;
    while let Some(node) = nodes.get(at as usize) {
        at = match wanted.cmp(&key(node)) {
            Ordering::Equal => return Some(at),
            Ordering::Less => node.left,
            Ordering::Greater => node.right,
        };
    }
    None
}

/// The child that agrees with the longest beginning of the tokens, and in how many, of those that are usable; `None` if
/// none agrees in any. Unusable ones that agree in as many are all passed on the way.
pub fn longest(
    nodes: &[Node],
    root: u32,
    wanted: Key<'_>,
    usable: &impl Fn(&Node) -> bool,
) -> Option<(u32, usize)> {
    let mut best = None;
    search(nodes, root, wanted, usable, &mut best);
    best
}

fn search(
    nodes: &[Node],
    at: u32,
    wanted: Key<'_>,
    usable: &impl Fn(&Node) -> bool,
    best: &mut Option<(u32, usize)>,
) {
    let Some(node) = nodes.get(at as usize) else { return };
    let own = key(node);
    let alike = (own.variant, own.from, own.is_lossy) == (wanted.variant, wanted.from, wanted.is_lossy);
    let common = match alike {
        true => own.tokens.iter().zip(wanted.tokens).take_while(|(a, b)| a == b).count(),
        false => 0,
    };
    if common > best.map_or(0, |(_, most)| most) && usable(node) {
        *best = Some((at, common));
    }
    let (near, far) = if wanted <= own { (node.left, node.right) } else { (node.right, node.left) };
    search(nodes, near, wanted, usable, best);
    // Whatever lies beyond this node agrees with no more tokens than it does.
    if common > best.map_or(0, |(_, most)| most) {
        search(nodes, far, wanted, usable, best);
    }
}

/// The first of the groups that children are in: those of one variant, beginning and exactness. Its key has no tokens.
pub fn first_group(nodes: &[Node], root: u32) -> Option<Key<'static>> {
    group(nodes, root, |_| true)
}

/// The group that comes after one.
pub fn next_group(nodes: &[Node], root: u32, before: Key<'_>) -> Option<Key<'static>> {
    group(nodes, root, |own| own > Key { tokens: &[], ..before })
}

/// The group of the first child whose own is far enough.
fn group(nodes: &[Node], root: u32, is_far: impl Fn(Key<'_>) -> bool) -> Option<Key<'static>> {
    let (mut found, mut at) = (None, root);
    while let Some(node) = nodes.get(at as usize) {
        let own = Key { tokens: &[], ..key(node) };
        at = if is_far(own) {
            found = Some(own);
            node.left
        } else {
            node.right
        };
    }
    found
}

/// Puts a node among children, none of which has its key. Returns their new root.
#[must_use]
pub fn insert(nodes: &mut [Node], root: u32, new: u32) -> u32 {
    if root == NONE {
        let new_node = &mut nodes[new as usize];
        (new_node.left, new_node.right) = (NONE, NONE);
        return new;
    }
    if priority(new) > priority(root) {
        let (left, right) = split(nodes, root, new);
        let new_node = &mut nodes[new as usize];
        (new_node.left, new_node.right) = (left, right);
        return new;
    }
    on_its_side(nodes, root, new, insert);
    root
}

/// Changes the side of a node that another one belongs to.
fn on_its_side(nodes: &mut [Node], root: u32, other: u32, change: fn(&mut [Node], u32, u32) -> u32) {
    if key(&nodes[other as usize]) < key(&nodes[root as usize]) {
        let left = change(nodes, nodes[root as usize].left, other);
        nodes[root as usize].left = left;
    } else {
        let right = change(nodes, nodes[root as usize].right, other);
        nodes[root as usize].right = right;
    }
}

/// Takes a node out of the children it is among. Returns their new root.
#[must_use]
pub fn remove(nodes: &mut [Node], root: u32, old: u32) -> u32 {
    if root == NONE {
        return NONE;
    }
    if root == old {
        let Node { left, right, .. } = nodes[old as usize];
        let merged = merge(nodes, left, right);
        let old_node = &mut nodes[old as usize];
        (old_node.left, old_node.right) = (NONE, NONE);
        return merged;
    }
    on_its_side(nodes, root, old, remove);
    root
}

/// Whether one of them is so.
pub fn has(nodes: &[Node], root: u32, is_so: &impl Fn(&Node) -> bool) -> bool {
    nodes
        .get(root as usize)
        .is_some_and(|node| is_so(node) || has(nodes, node.left, is_so) || has(nodes, node.right, is_so))
}

/// All of them, in order.
pub fn all(nodes: &[Node], root: u32) -> Vec<u32> {
    let mut found = Vec::new();
    collect(nodes, root, &mut found);
    found
}

fn collect(nodes: &[Node], at: u32, found: &mut Vec<u32>) {
    let Some(node) = nodes.get(at as usize) else { return };
    collect(nodes, node.left, found);
    found.push(at);
    collect(nodes, node.right, found);
}

/// The nodes below and above the key of `by`.
fn split(nodes: &mut [Node], root: u32, by: u32) -> (u32, u32) {
    if root == NONE {
        return (NONE, NONE);
    }
    if key(&nodes[root as usize]) < key(&nodes[by as usize]) {
        let (low, high) = split(nodes, nodes[root as usize].right, by);
        nodes[root as usize].right = low;
        (root, high)
    } else {
        let (low, high) = split(nodes, nodes[root as usize].left, by);
        nodes[root as usize].left = high;
        (low, root)
    }
}

/// Two treaps, all of the first below all of the second.
fn merge(nodes: &mut [Node], low: u32, high: u32) -> u32 {
    if low == NONE || high == NONE {
        return if low == NONE { high } else { low };
    }
    if priority(low) > priority(high) {
        let right = merge(nodes, nodes[low as usize].right, high);
        nodes[low as usize].right = right;
        low
    } else {
        let left = merge(nodes, low, nodes[high as usize].left);
        nodes[high as usize].left = left;
        high
    }
}

/// Spread over all numbers, so that a treap is about as deep as a balanced tree (SplitMix64's finaliser, Steele et al.,
/// 2014).
fn priority(node: u32) -> u64 {
    let mut x = u64::from(node).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::Kind;

    fn node(variant: u16, tokens: &[u32]) -> Node {
        let mut node = Node::new(Kind::Shared, variant);
        node.tokens[..tokens.len()].copy_from_slice(tokens);
        node.len = u8::try_from(tokens.len()).unwrap();
        node
    }

    fn wanted(variant: u16, tokens: &[u32]) -> Key<'_> {
        Key { variant, from: 0, is_lossy: false, tokens }
    }

    proptest! {
        #[test]
        fn children_are_found_as_in_a_list(
            texts in prop::collection::btree_set((0_u16..3, prop::collection::vec(0_u32..3, 1..5)), 1..60),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
            unusable in 0_u32..5,
            sought in prop::collection::vec((0_u16..3, prop::collection::vec(0_u32..3, 1..6)), 1..20),
        ) {
            let mut nodes: Vec<Node> = texts.iter().map(|(variant, text)| node(*variant, text)).collect();
            let mut root = NONE;
            let mut there: Vec<u32> = Vec::new();
            // In an order that is not theirs.
            let count = nodes.len() as u32;
            for i in (0..count).map(|i| i * 7919 % count) {
                if !there.contains(&i) {
                    root = insert(&mut nodes, root, i);
                    there.push(i);
                }
            }
            for index in gone {
                if !there.is_empty() {
                    let old = there.swap_remove(index.index(there.len()));
                    root = remove(&mut nodes, root, old);
                }
            }
            there.sort_unstable();
            prop_assert_eq!(&all(&nodes, root), &there, "sorted, as the set was");
            let usable = |node: &Node| node.tokens.iter().sum::<u32>() % 5 != unusable;
            for (variant, text) in sought {
                let exact = there.iter().copied().find(|&i| key(&nodes[i as usize]) == wanted(variant, &text));
                prop_assert_eq!(find(&nodes, root, wanted(variant, &text)), exact);
                let common = |i: u32| {
                    let node = &nodes[i as usize];
                    let n = node.text().iter().zip(&text).take_while(|(a, b)| a == b).count();
                    if node.variant == variant && usable(node) { n } else { 0 }
                };
                let most = there.iter().map(|&i| common(i)).max().unwrap_or(0);
                let found = longest(&nodes, root, wanted(variant, &text), &usable);
                prop_assert_eq!(found.map_or(0, |(_, n)| n), most);
                prop_assert!(found.is_none_or(|(i, n)| common(i) == n));
            }
        }
    }
}
