//! Chunks that are not full: the next turn goes on writing them, and two that go on differently write each its own.

use interleaf_kv::OpKind;

use crate::rig::{By, Rig, text};

#[test]
fn the_next_turn_takes_a_tail_over() {
    let mut rig = Rig::new(8, None);
    let app = rig.app(None);
    let first = text(1, 20);
    let (sequence, _) = rig.begin(By::base(app), &first);
    let slots = rig.places(sequence, 1);
    rig.close(sequence);
    let next = [&first[..], &text(2, 20)].concat();
    let opened = rig.open(By::base(app), &next).unwrap();
    assert_eq!((opened.reused, opened.moves.len()), (20, 0), "nothing is copied");
    assert_eq!(rig.places(opened.sequence, 1), slots);
    // While it is being written it is nobody else's.
    assert_eq!(rig.found(By::base(app), &next), 16);
    rig.compute(opened.sequence, &next[20..]).unwrap();
    assert!(rig.reads_right(opened.sequence));
}

#[test]
fn two_turns_that_part_within_a_chunk_have_one_each() {
    let mut rig = Rig::new(12, None);
    let app = rig.app(None);
    let first = text(1, 26);
    rig.turn(By::base(app), &first);
    // One goes on with six of the last ten tokens, one with all.
    let parted = [&first[..22], &text(2, 10)].concat();
    let same = [&first[..], &text(3, 10)].concat();
    let opened = rig.open(By::base(app), &parted).unwrap();
    assert_eq!((opened.reused, opened.moves.len()), (22, 1));
    assert_eq!(opened.moves[0].kind, OpKind::Copy);
    assert!(!rig.manager.is_ready(opened.sequence).unwrap(), "the copy is on its way");
    // Nobody writes what is being copied: the other gets a copy as well.
    let other = rig.open(By::base(app), &same).unwrap();
    assert_eq!((other.reused, other.moves.len()), (26, 1));
    let [one, two] = [opened.sequence, other.sequence].map(|id| rig.places(id, 1));
    assert!(one.iter().zip(&two).all(|(a, b)| a != b), "{one:?} and {two:?}");
    rig.carry_out();
    rig.compute(opened.sequence, &parted[22..]).unwrap();
    rig.compute(other.sequence, &same[26..]).unwrap();
    assert!(rig.reads_right(opened.sequence) && rig.reads_right(other.sequence));
    // And what was there is still found.
    assert_eq!(rig.found(By::base(app), &first), 26);
}

/// A full chunk that others may be reading is not cut: whoever goes on differently gets a copy.
#[test]
fn cutting_a_sequence_cuts_nobody_elses() {
    let mut rig = Rig::new(12, None);
    let app = rig.app(None);
    let prompt = text(1, 48);
    let (one, _) = rig.begin(By::base(app), &prompt);
    let (two, _) = rig.begin(By::base(app), &prompt);
    assert_eq!(rig.places(one, 1), rig.places(two, 1));
    let op = rig.manager.truncate(one, 20).unwrap();
    rig.check();
    assert_eq!(op.map(|op| op.kind), Some(OpKind::Copy));
    rig.moves.extend(op);
    rig.carry_out();
    rig.compute(one, &text(2, 20)).unwrap();
    assert!(rig.reads_right(one) && rig.reads_right(two));
    assert_ne!(rig.places(one, 1), rig.places(two, 1));
    rig.close(one);
    rig.close(two);
    assert_eq!(rig.found(By::base(app), &prompt), 48);
    assert_eq!(rig.found(By::base(app), &[&prompt[..20], &text(2, 20)].concat()), 40);
}
