//! Activated adapters act from their invocation on: what comes before it is the base's, and what comes after it depends on
//! where it was.

use crate::rig::{By, LAYERS, Rig, key, text};

/// The invocation is within the third chunk.
const FROM: usize = 40;

#[test]
fn what_comes_before_the_invocation_is_found_from_the_base() {
    for shared in [0, 2] {
        let mut rig = Rig::new(60, None);
        let app = rig.app(None);
        let adapter = rig.activated(key(1), shared);
        let prompt = text(1, 64);
        rig.turn(By::base(app), &prompt);
        assert_eq!(rig.turn(By::activated(app, adapter, FROM), &prompt), FROM);
        assert_eq!(rig.found(By::activated(app, adapter, FROM), &prompt), 64);
        assert_eq!(rig.found(By::base(app), &prompt), 64);
    }
}

#[test]
fn what_comes_before_the_invocation_is_found_by_the_base() {
    for shared in [0, 2] {
        let mut rig = Rig::new(60, None);
        let app = rig.app(None);
        let adapter = rig.activated(key(1), shared);
        let prompt = text(1, 64);
        rig.turn(By::activated(app, adapter, FROM), &prompt);
        assert_eq!(rig.found(By::base(app), &prompt), FROM);
        assert_eq!(rig.turn(By::base(app), &prompt), FROM);
        assert_eq!(rig.found(By::base(app), &prompt), 64);
    }
}

#[test]
fn a_chunk_with_an_invocation_answers_for_no_other_place_of_it() {
    for shared in [0, 1, LAYERS - 1] {
        let mut rig = Rig::new(100, None);
        let app = rig.app(None);
        let adapter = rig.activated(key(1), shared);
        let other = rig.activated(key(2), shared);
        let prompt = text(1, 64);
        rig.turn(By::activated(app, adapter, FROM), &prompt);
        // Nowhere in its chunk, not at the chunk's beginning, not after it: but for what comes before either, which is
        // copied.
        for from in [FROM - 1, FROM + 1, 32, 47, 48, 64] {
            let found = rig.found(By::activated(app, adapter, from), &prompt);
            assert_eq!(found, from.min(FROM), "invoked at {from} instead of {FROM}");
        }
        assert_eq!(rig.found(By::activated(app, other, FROM), &prompt), FROM);
        assert_eq!(rig.turn(By::activated(app, adapter, FROM + 1), &prompt), FROM);
        assert_eq!(rig.turn(By::activated(app, adapter, FROM), &prompt), 64);
    }
}

/// At a chunk's beginning the chunk is the adapter's from its first token on, as that of an ordinary adapter is; they are
/// different adapters all the same.
#[test]
fn an_invocation_at_the_beginning_is_no_ordinary_adapter() {
    let mut rig = Rig::new(60, None);
    let app = rig.app(None);
    let activated = rig.activated(key(1), 0);
    let ordinary = rig.adapter(key(2), 0);
    let prompt = text(1, 32);
    rig.turn(By::activated(app, activated, 0), &prompt);
    assert_eq!(rig.found(By::adapter(app, ordinary), &prompt), 0);
    assert_eq!(rig.found(By::base(app), &prompt), 0);
    assert_eq!(rig.found(By::activated(app, activated, 0), &prompt), 32);
}
