//! What may be where, and for how long: adapters that leave, chunks that others stand on, slots that are used again.

use interleaf_kv::{AdapterId, AppId, KvError, TrimLevel};

use crate::rig::{By, CHUNK, LAYERS, PAGE, Rig, key, text};

#[test]
fn the_pages_of_a_removed_adapter_go_at_once_from_every_tier() {
    let mut rig = Rig::new(40, Some(40));
    let app = rig.app(None);
    let adapter = rig.pooled(key(1));
    let prompt = text(1, 40);
    rig.turn(By::adapter(app, adapter), &prompt);
    assert_eq!(rig.held(), [4 * CHUNK, 3 * CHUNK], "three chunks in both tiers, and the weights");
    rig.manager.remove_adapter(adapter).unwrap();
    rig.check();
    assert_eq!((rig.held(), rig.manager.chunks()), ([0, 0], 0));
    assert_eq!(rig.manager.remove_adapter(adapter), Err(KvError::UnknownAdapter));
}

#[test]
fn a_removed_adapter_goes_with_its_last_sequence() {
    let mut rig = Rig::new(12, None);
    let app = rig.app(None);
    let adapter = rig.pooled(key(1));
    let by = By::adapter(app, adapter);
    let prompt = text(1, 40);
    let (one, _) = rig.begin(by, &prompt);
    let (two, _) = rig.begin(by, &[&prompt[..32], &text(2, 20)].concat());
    rig.manager.remove_adapter(adapter).unwrap();
    assert_eq!(rig.open(by, &prompt).unwrap_err(), KvError::UnknownAdapter);
    // The same contents under a new name share nothing with what is leaving.
    let again = rig.pooled(key(1));
    assert_eq!(rig.found(By::adapter(app, again), &prompt), 0);
    // Memory is full of others, and the sequences read what they did and go on.
    for name in 5..9 {
        rig.turn(By::base(app), &text(name, 30));
    }
    for (sequence, name) in [(one, 3), (two, 4)] {
        rig.compute(sequence, &text(name, 5)).unwrap();
        assert!(rig.reads_right(sequence));
    }
    rig.close(one);
    assert!(rig.reads_right(two), "it has not gone with the first");
    rig.close(two);
    rig.manager.trim(TrimLevel::Warning);
    assert_eq!((rig.held(), rig.manager.chunks()), ([0, 0], 0));
    // What left has not come back by its number.
    assert_eq!(rig.found(By::adapter(app, again), &prompt), 0);
}

/// The pages of a removed adapter that is in use are no room for others until its last sequence is closed.
#[test]
fn the_pages_of_a_leaving_adapter_are_kept_while_they_are_read() {
    let mut rig = Rig::new(4, None);
    let app = rig.app(None);
    let adapter = rig.adapter(key(1), 0);
    let (reading, _) = rig.begin(By::adapter(app, adapter), &text(1, 48));
    rig.manager.remove_adapter(adapter).unwrap();
    let (other, _) = rig.begin(By::base(app), &text(2, 16));
    assert!(matches!(rig.compute(other, &[1]), Err(KvError::Full { needed: 1, free: 0, capacity: 4 })));
    assert!(rig.reads_right(reading));
    rig.close(reading);
    assert_eq!(rig.held()[0], CHUNK);
    rig.compute(other, &text(3, 48)).unwrap();
    assert!(rig.reads_right(other));
}

/// Of a base chunk whose lower layers an adapter's chunk shares only the upper ones may go.
#[test]
fn an_anchor_is_not_taken_from_under_its_followers() {
    const SHARED: u64 = 2;
    let mut rig = Rig::new(6, None);
    let app = rig.app(None);
    let adapter = rig.adapter(key(1), SHARED as usize);
    let prompt = text(1, 16);
    rig.turn(By::base(app), &prompt);
    let (follower, _) = rig.begin(By::adapter(app, adapter), &prompt);
    let upper = LAYERS as u64 - SHARED;
    assert_eq!(rig.held()[0], CHUNK + upper * PAGE, "lower layers are there once");
    let (other, _) = rig.begin(By::base(app), &text(2, 80));
    let full = rig.compute(other, &[1]);
    assert!(matches!(full, Err(KvError::Full { needed: 1, free: 0, capacity: 6 })), "{full:?}");
    assert_eq!(rig.held()[0], 6 * CHUNK, "one chunk of two variants, five of one");
    assert!(rig.reads_right(follower) && rig.reads_right(other));
    assert_eq!(rig.found(By::base(app), &prompt), 0, "the base's chunks are no longer whole");
    // With the follower closed all of it may go.
    rig.close(follower);
    rig.compute(other, &text(3, 16)).unwrap();
    assert!(rig.reads_right(other));
}

/// Nor to make room for the follower itself, or for one before it.
#[test]
fn an_anchor_does_not_go_for_those_that_need_it() {
    for (chunks, tokens) in [(1, 16), (3, 48)] {
        let mut rig = Rig::new(chunks, Some(40));
        let app = rig.app(None);
        let adapter = rig.adapter(key(1), 2);
        let prompt = text(1, tokens);
        rig.turn(By::base(app), &prompt);
        rig.turn(By::adapter(app, adapter), &prompt);
        // The adapter's chunks are in flash, the base's in all of memory.
        rig.manager.trim(TrimLevel::Warning);
        assert_eq!(rig.turn(By::base(app), &prompt), tokens);
        assert_eq!(rig.held()[0], u64::from(chunks) * CHUNK);
        let (sequence, _) = rig.begin(By::adapter(app, adapter), &prompt);
        assert!(rig.reads_right(sequence));
    }
}

/// A, then B in A's slots, then A again.
#[test]
fn a_slot_that_was_anothers_in_between_is_not_believed() {
    for flash in [None, Some(40)] {
        let mut rig = Rig::new(3, flash);
        let app = rig.app(None);
        let adapter = rig.adapter(key(1), 0);
        let prompt = text(1, 40);
        let [a, b] = [By::adapter(app, adapter), By::base(app)];
        rig.turn(a, &prompt);
        let (sequence, found) = rig.begin(b, &prompt);
        assert_eq!((found, rig.held()[0]), (0, 3 * CHUNK), "in the only slots there are");
        rig.close(sequence);
        rig.carry_out();
        let opened = rig.open(a, &prompt).unwrap();
        let expected = if flash.is_some() { 40 } else { 0 };
        assert_eq!(opened.reused, expected, "what was written, the chunk that is not full too");
        if flash.is_some() {
            assert!(!rig.manager.is_ready(opened.sequence).unwrap());
            // Nothing is computed over pages that are on their way.
            let waits = KvError::Waiting(opened.sequence);
            assert_eq!(rig.manager.append(opened.sequence, 1), Err(waits.clone()));
            assert_eq!(rig.manager.commit(opened.sequence, &[1], 0.0), Err(waits.clone()));
            assert_eq!(rig.manager.truncate(opened.sequence, 16), Err(waits));
        }
        rig.carry_out();
        rig.compute(opened.sequence, &prompt[opened.reused..]).unwrap();
        assert!(rig.reads_right(opened.sequence));
        rig.close(opened.sequence);
        rig.carry_out();
        let (sequence, _) = rig.begin(b, &prompt);
        assert!(rig.reads_right(sequence));
    }
}

/// A prompt's chunks under the base, and under an adapter that shares two layers with it, all of them stored alone.
fn both_stored() -> (Rig, AppId, AdapterId, Vec<u32>) {
    let mut rig = Rig::new(20, Some(20));
    let app = rig.app(None);
    let adapter = rig.adapter(key(1), 2);
    let prompt = text(1, 32);
    rig.turn(By::base(app), &prompt);
    rig.turn(By::adapter(app, adapter), &prompt);
    rig.manager.trim(TrimLevel::Warning);
    (rig, app, adapter, prompt)
}

/// A sequence waits for what its chunks share with the base's, not only for its own.
#[test]
fn a_follower_waits_for_its_anchor() {
    let (mut rig, app, adapter, prompt) = both_stored();
    // Somebody else's words are in these slots now.
    rig.turn(By::base(app), &text(2, 160));
    rig.manager.trim(TrimLevel::Warning);
    let base = rig.open(By::base(app), &prompt).unwrap();
    let follower = rig.open(By::adapter(app, adapter), &prompt).unwrap();
    assert_eq!((base.reused, follower.reused), (32, 32));
    for op in follower.moves {
        rig.carry_out_one(op);
    }
    let is_ready = rig.manager.is_ready(follower.sequence).unwrap();
    assert!(!is_ready || rig.reads_right(follower.sequence), "it may go on over pages that are not there");
    rig.carry_out();
    assert!(rig.manager.is_ready(follower.sequence).unwrap() && rig.reads_right(follower.sequence));
}

/// Where what they share cannot be read, both have only what comes before.
#[test]
fn a_follower_does_not_outlive_its_anchors_failure() {
    let (mut rig, app, adapter, prompt) = both_stored();
    let base = rig.open(By::base(app), &prompt).unwrap();
    let follower = rig.open(By::adapter(app, adapter), &prompt).unwrap();
    for op in follower.moves {
        rig.carry_out_one(op);
    }
    for op in base.moves {
        rig.moves.retain(|other| other.id != op.id);
        rig.moves.extend(rig.manager.failed(op.id));
        rig.check();
    }
    rig.carry_out();
    assert_eq!(rig.manager.tokens(base.sequence), Ok(0));
    assert!(rig.reads_right(follower.sequence));
    rig.close(base.sequence);
    rig.close(follower.sequence);
}

/// A tick takes what brings memory below its threshold, and no more.
#[test]
fn adapters_count_by_what_they_take_when_memory_is_emptied() {
    let mut rig = Rig::new(6, None);
    let app = rig.app(None);
    for name in 0..6 {
        let adapter = rig.pooled(key(name));
        let opened = rig.open(By::adapter(app, adapter), &text(1, 1)).unwrap();
        rig.carry_out();
        rig.close(opened.sequence);
    }
    assert_eq!(rig.held()[0], 6 * CHUNK);
    rig.manager.tick(1.0);
    rig.check();
    assert_eq!(rig.held()[0], 5 * CHUNK);
}
