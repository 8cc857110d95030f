//! What is refused or fails changes nothing for anybody else, and nobody waits for what does not come.

use interleaf_kv::{KvError, OpKind, Open, TrimLevel};

use crate::rig::{By, CHUNK, Rig, key, text};

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

/// Of a context that is on its way to memory one read is cancelled: the others, which come after it, are for nothing, and
/// what they read is there for the next one.
#[test]
fn a_cancelled_read_takes_nothing_from_flash() {
    let mut rig = Rig::new(12, Some(12));
    let by = By::base(rig.app(None));
    let prompt = text(1, 96);
    rig.turn(by, &prompt);
    rig.manager.trim(TrimLevel::Warning);
    assert_eq!(rig.held()[0], 0);
    let opened = rig.open(by, &prompt).unwrap();
    assert_eq!((opened.reused, opened.moves.len()), (96, 6));
    let (last, others) = opened.moves.split_last().unwrap();
    rig.carry_out_one(*last);
    rig.manager.cancelled(others[1].id);
    rig.check();
    assert_eq!(rig.manager.tokens(opened.sequence), Ok(16));
    for op in [0, 2, 3, 4].map(|place| others[place]) {
        rig.carry_out_one(op);
        rig.check();
    }
    rig.moves.clear();
    rig.close(opened.sequence);
    assert_eq!(rig.held()[0], CHUNK);
    assert_eq!(rig.found(by, &prompt), 96);
    let (again, reused) = rig.begin(by, &prompt);
    assert!(reused == 96 && rig.reads_right(again));
}

#[test]
fn what_is_forgotten_goes_with_what_it_shares_unless_another_has_used_it() {
    let mut rig = Rig::new(20, None);
    let [one, other] = [rig.app(None), rig.app(None)];
    let adapter = rig.adapter(key(1), 2);
    let prompt = text(1, 48);
    let call = |app| By::adapter(app, adapter);
    let forget = |rig: &mut Rig, app| {
        let open = Open {
            app,
            adapter: Some((adapter, 0)),
            tokens: &prompt,
            most: 48,
            budget: 0.0,
            is_kept: true,
            now: 0.0,
        };
        rig.manager.forget(&open).unwrap();
        rig.check();
    };
    rig.turn(call(one), &prompt);
    rig.turn(call(other), &prompt[..32]);
    forget(&mut rig, one);
    assert_eq!(rig.found(call(other), &prompt), 32, "the other's");
    forget(&mut rig, other);
    assert_eq!((rig.manager.chunks(), rig.held()[0]), (0, 0));
}
