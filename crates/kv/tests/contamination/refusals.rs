//! What is refused or fails changes nothing for anybody else, and nobody waits for what does not come.

use interleaf_kv::{KvError, OpKind};

use crate::rig::{By, Rig, key, text};

#[test]
fn what_cannot_be_had_does_not_empty_the_cache() {
    let mut rig = Rig::new(8, None);
    let app = rig.app(None);
    let prompt = text(1, 64);
    rig.turn(By::base(app), &prompt);
    let large = rig.open(By::base(app), &text(2, 8)).unwrap().sequence;
    let refused = rig.manager.append(large, 9 * 16);
    assert_eq!(refused, Err(KvError::Full { needed: 9, free: 8, capacity: 8 }));
    assert_eq!((rig.found(By::base(app), &prompt), rig.manager.room(large)), (64, Ok(0)));
    // What can be had by emptying it is given.
    rig.manager.append(large, 8 * 16).unwrap();
    assert_eq!(rig.found(By::base(app), &prompt), 0);
}

#[test]
fn an_adapter_that_does_not_fit_does_not_empty_the_cache() {
    let mut rig = Rig::new(4, None);
    let app = rig.app(None);
    let adapter = rig.pooled(key(1));
    let reading = rig.begin(By::base(app), &text(1, 64)).0;
    assert!(matches!(rig.open(By::adapter(app, adapter), &text(2, 8)), Err(KvError::AdapterFull { .. })));
    rig.manager.truncate(reading, 48).unwrap();
    rig.close(reading);
    // It is one block of each layer, and one is free.
    rig.begin(By::adapter(app, adapter), &text(2, 1));
}

#[test]
fn weights_that_could_not_be_loaded_are_asked_for_again() {
    let mut rig = Rig::new(8, None);
    let app = rig.app(None);
    let adapter = rig.pooled(key(1));
    let by = By::adapter(app, adapter);
    let first = rig.open(by, &text(1, 8)).unwrap();
    let [load] = first.moves[..] else { panic!("{:?}", first.moves) };
    assert_eq!((load.kind, rig.manager.is_ready(first.sequence)), (OpKind::Load, Ok(false)));
    rig.manager.failed(load.id);
    rig.moves.clear();
    assert_eq!(rig.manager.is_ready(first.sequence), Err(KvError::NotLoaded(first.sequence)));
    assert_eq!(rig.manager.append(first.sequence, 1), Err(KvError::Waiting(first.sequence)));
    // Another call asks again, and whoever is still there is helped as well.
    let second = rig.open(by, &text(2, 8)).unwrap();
    assert_eq!(rig.manager.is_ready(first.sequence), Ok(false));
    rig.carry_out();
    assert_eq!([first.sequence, second.sequence].map(|id| rig.manager.is_ready(id)), [Ok(true), Ok(true)]);
    rig.close(first.sequence);
    rig.close(second.sequence);
}
