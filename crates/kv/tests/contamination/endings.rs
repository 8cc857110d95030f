//! Moves that end after what they were for: faults that random events found, each as small as it gets.

use interleaf_kv::{KvError, OpKind, TrimLevel};

use crate::rig::{By, CHUNK, Rig, key, text};

/// A sequence is closed while the copy into its last chunk is under way. Whoever came next got the pages that the copy
/// still wrote.
#[test]
fn pages_that_a_copy_writes_are_nobodys_until_it_has_ended() {
    let mut rig = Rig::new(3, None);
    let app = rig.app(None);
    rig.turn(By::base(app), &text(1, 16));
    let parted = [&text(1, 8)[..], &text(2, 8)].concat();
    let opened = rig.open(By::base(app), &parted).unwrap();
    assert_eq!(opened.moves[0].kind, OpKind::Copy);
    let copied = rig.manager.copied_places(opened.moves[0].id);
    rig.close(opened.sequence);
    let next = rig.open(By::base(app), &text(3, 16)).unwrap().sequence;
    rig.compute(next, &text(3, 16)).unwrap();
    assert!(copied.iter().all(|&(layer, from, to)| ![from, to].contains(&rig.places(next, 0)[layer])));
    // One chunk is read by the copy, one is written, and there is no other.
    assert!(matches!(rig.compute(next, &[1]), Err(KvError::Full { .. })));
    for (layer, from, to) in copied {
        let page = rig.device.page(layer, from);
        rig.device.set_page(layer, to, page);
    }
    assert!(rig.reads_right(next));
    assert!(rig.manager.done(opened.moves[0].id).is_empty());
    rig.check();
    rig.moves.clear();
    assert_eq!(rig.held()[0], 2 * CHUNK, "the copy's pages are free");
    rig.compute(next, &text(4, 32)).unwrap();
    assert!(rig.reads_right(next));
}

/// A base chunk and the adapter's chunk that shares its layers are children of one parent: who removes the parent's
/// children removes the second with the first, and removed it twice.
#[test]
fn a_chunk_that_goes_with_its_anchor_goes_once() {
    let mut rig = Rig::new(20, Some(20));
    let app = rig.app(None);
    let adapter = rig.activated(key(1), 2);
    let prompt = text(1, 32);
    // The parent could not be written, its children are: from memory it goes altogether, and they with it.
    let (base, _) = rig.begin(By::base(app), &prompt);
    let (follower, _) = rig.begin(By::activated(app, adapter, 20), &prompt);
    for sequence in [base, follower] {
        rig.close(sequence);
        let first = rig.moves.remove(0);
        assert!(rig.manager.failed(first.id).is_empty());
        rig.carry_out();
    }
    assert_eq!((rig.held()[1], rig.manager.chunks()), (2 * CHUNK, 3));
    rig.manager.trim(TrimLevel::Warning);
    rig.check();
    assert_eq!((rig.held(), rig.manager.chunks()), ([0, 0], 0));
    // What was freed twice would be given to two.
    let ids = [2, 3, 4, 5].map(|name| rig.begin(By::base(app), &text(name, 30)).0);
    assert!(ids.iter().all(|id| rig.reads_right(*id)));
}

/// An adapter whose weights went from memory waits to be fetched when memory is idle. It was fetched after it was removed.
#[test]
fn a_removed_adapter_is_not_fetched() {
    let mut rig = Rig::new(20, Some(20));
    let app = rig.app(None);
    let adapter = rig.pooled(key(1));
    rig.turn(By::adapter(app, adapter), &text(1, 16));
    rig.manager.trim(TrimLevel::Warning);
    assert_eq!(rig.held(), [0, CHUNK]);
    rig.manager.remove_adapter(adapter).unwrap();
    rig.check();
    let moves = rig.manager.tick(10.0);
    assert!(moves.is_empty(), "{moves:?}");
    // Another in its place is fetched as itself.
    let other = rig.pooled(key(2));
    let opened = rig.open(By::adapter(app, other), &text(1, 16)).unwrap();
    assert_eq!((opened.reused, opened.moves.len()), (0, 1));
    assert_eq!(opened.moves[0].kind, OpKind::Load);
    rig.carry_out();
    rig.close(opened.sequence);
    assert!(rig.manager.tick(20.0).is_empty());
    rig.check();
}

/// The budget is cut while all of memory is in use. What is let go from then on goes at once, not with the next event that
/// happens to look.
#[test]
fn what_is_let_go_beyond_the_budget_goes_at_once() {
    let mut rig = Rig::new(12, None);
    let app = rig.app(None);
    let prompt = text(1, 48);
    // Twice the same, so that the second's chunks become the first's.
    let [one, two] = [0, 0].map(|_| rig.open(By::base(app), &prompt).unwrap().sequence);
    for id in [one, two] {
        rig.manager.append(id, 48).unwrap();
    }
    let three = rig.begin(By::base(app), &text(2, 64)).0;
    assert_eq!(rig.held()[0], 10 * CHUNK);
    rig.manager.set_budget(0, CHUNK);
    rig.check();
    assert_eq!(rig.held()[0], 10 * CHUNK, "all of it is in use");
    rig.manager.commit(one, &prompt, 0.0).unwrap();
    assert_eq!(rig.held()[0], 10 * CHUNK);
    rig.manager.commit(two, &prompt, 0.0).unwrap();
    assert_eq!(rig.held()[0], 7 * CHUNK);
    rig.manager.truncate(three, 32).unwrap();
    assert_eq!(rig.held()[0], 5 * CHUNK);
    rig.check();
    rig.close(three);
    assert_eq!(rig.held()[0], 3 * CHUNK);
    rig.close(one);
    assert_eq!(rig.held()[0], 3 * CHUNK, "the other has them");
    rig.close(two);
    assert_eq!(rig.held()[0], CHUNK, "within the budget what nobody uses stays");
}

/// One app copies the beginning of another's chunk, which shares its lower layers with the base's. The other is closed: the
/// base's chunk went while the copy read it.
#[test]
fn what_a_copy_reads_stays_until_it_has_ended() {
    let mut rig = Rig::new(20, None);
    let (closed, copies) = (rig.app(None), rig.app(None));
    let adapter = rig.adapter(key(1), 2);
    rig.turn(By::adapter(closed, adapter), &text(1, 16));
    let parted = [&text(1, 8)[..], &text(2, 8)].concat();
    let opened = rig.open(By::adapter(copies, adapter), &parted).unwrap();
    assert_eq!((opened.reused, opened.moves[0].kind), (8, OpKind::Copy));
    rig.manager.close_app(closed).unwrap();
    rig.check();
    // Others write wherever there is room.
    rig.begin(By::base(copies), &text(3, 200));
    rig.carry_out();
    assert!(rig.manager.tokens(opened.sequence) == Ok(0) || rig.reads_right(opened.sequence));
}

/// The device fails, with moves of every kind under way. What was reserved for them is free again, nothing of what it held
/// is found, and sequences go on once their pages have been computed again.
#[test]
fn nothing_of_a_lost_memory_is_believed_or_kept() {
    let mut rig = Rig::new(30, Some(30));
    let app = rig.app(None);
    let adapter = rig.adapter(key(1), 2);
    let (prompt, stored) = (text(1, 50), text(2, 32));
    rig.turn(By::base(app), &stored);
    rig.turn(By::adapter(app, adapter), &stored);
    rig.manager.trim(TrimLevel::Warning);
    let (open, _) = rig.begin(By::adapter(app, adapter), &prompt);
    let (writes, _) = rig.begin(By::base(app), &prompt);
    // A read, a write, and a copy.
    let reads = rig.open(By::base(app), &stored).unwrap().sequence;
    rig.close(writes);
    let copies = rig.open(By::base(app), &[&prompt[..20], &text(3, 9)].concat()).unwrap();
    let kinds: Vec<_> = rig.moves.iter().map(|op| op.kind).collect();
    for kind in [OpKind::Copy, OpKind::Write { from: 0, to: 1 }, OpKind::Read { from: 1 }] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    rig.manager.lose_memory();
    rig.check();
    rig.moves.clear();
    rig.device.forget_pages();
    for by in [By::base(app), By::adapter(app, adapter)] {
        assert_eq!(rig.found(by, &prompt), 0);
    }
    for id in [reads, copies.sequence, open] {
        rig.recompute(id);
        rig.manager.regained(id).unwrap();
        rig.check();
        assert!(rig.manager.is_ready(id).unwrap() && rig.reads_right(id));
        rig.compute(id, &text(4, 20)).unwrap();
        assert!(rig.reads_right(id));
        rig.close(id);
    }
    rig.carry_out();
    // The base's chunks came back in the layers that its followers have; whoever needs all of them computes them.
    rig.turn(By::base(app), &prompt);
    rig.turn(By::adapter(app, adapter), &prompt);
    rig.manager.trim(TrimLevel::Warning);
    assert_eq!(rig.held()[0], 0);
}

/// A copy reads, by a follower that came back, a chunk whose own contents are lost: that brings nothing to anybody.
#[test]
fn what_is_read_of_a_lost_chunk_is_no_contents_on_their_way() {
    let mut rig = Rig::new(12, None);
    let app = rig.app(None);
    let adapter = rig.adapter(key(1), 2);
    let longer = text(1, 17);
    rig.turn(By::base(app), &longer[..16]);
    let (follower, _) = rig.begin(By::adapter(app, adapter), &longer[..16]);
    let lost = rig.open(By::base(app), &longer).unwrap();
    assert_eq!(lost.reused, 16);
    rig.manager.lose_memory();
    rig.device.forget_pages();
    rig.recompute(follower);
    rig.manager.regained(follower).unwrap();
    let copy = rig.manager.truncate(follower, 1).unwrap();
    assert!(copy.is_some_and(|op| op.kind == OpKind::Copy));
    let next = rig.open(By::base(app), &longer).unwrap();
    assert_eq!((next.reused, rig.manager.is_ready(next.sequence)), (0, Ok(true)));
    rig.check();
}
