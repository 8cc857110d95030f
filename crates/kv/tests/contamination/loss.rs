//! What was computed with loss answers for nothing that is to be exact, nor for what may lose less.

use interleaf_kv::KvError;

use crate::rig::{By, Rig, key, text};

/// Nats.
const LITTLE: f32 = 0.125;
const MUCH: f32 = 0.5;

#[test]
fn exact_finds_nothing_lossy_and_lossy_finds_exact() {
    let mut rig = Rig::new(60, None);
    let app = rig.app(None);
    let adapter = rig.adapter(key(1), 2);
    for by in [By::base(app), By::adapter(app, adapter)] {
        let prompt = text(1, 40);
        let lossy = by.lossy(MUCH);
        let opened = rig.open(lossy, &prompt).unwrap();
        rig.compute_lossy(opened.sequence, &prompt, LITTLE).unwrap();
        assert!(!rig.reads_right(opened.sequence), "it was computed with loss");
        // Neither while it is open nor after.
        assert_eq!((rig.found(by, &prompt), rig.found(lossy, &prompt)), (0, 32));
        rig.close(opened.sequence);
        assert_eq!((rig.found(by, &prompt), rig.found(lossy, &prompt)), (0, 40));
        // The same tokens exactly, beside them.
        assert_eq!(rig.turn(by, &prompt), 0);
        assert_eq!((rig.found(by, &prompt), rig.found(lossy, &prompt)), (40, 40));
        // Of the two the exact one is taken.
        let opened = rig.open(lossy, &prompt[..32]).unwrap();
        assert!(opened.reused == 32 && rig.reads_right(opened.sequence));
        rig.close(opened.sequence);
    }
}

#[test]
fn what_is_computed_over_loss_is_lossy() {
    let mut rig = Rig::new(60, None);
    let app = rig.app(None);
    let [exact, little, much] = [0.0, LITTLE, MUCH].map(|budget| By::base(app).lossy(budget));
    let prompt = text(1, 80);
    let opened = rig.open(much, &prompt).unwrap();
    let id = opened.sequence;
    rig.compute(id, &prompt[..16]).unwrap();
    rig.compute_lossy(id, &prompt[16..32], LITTLE).unwrap();
    // Exactly, over what is not exact.
    rig.compute(id, &prompt[32..48]).unwrap();
    rig.compute_lossy(id, &prompt[48..64], MUCH).unwrap();
    rig.compute(id, &prompt[64..]).unwrap();
    assert_eq!([exact, little, much].map(|by| rig.found(by, &prompt)), [16, 48, 80]);
    rig.close(id);
    assert_eq!([exact, little, much].map(|by| rig.found(by, &prompt)), [16, 48, 80]);
    // A chunk of which only one token has loss has it as a whole, and so has a copy of its beginning.
    assert_eq!(rig.turn(exact, &text(2, 10)), 0);
    let opened = rig.open(little, &text(2, 10)).unwrap();
    rig.compute_lossy(opened.sequence, &[1], LITTLE).unwrap();
    rig.close(opened.sequence);
    let longer = [&text(2, 10)[..], &[1]].concat();
    assert_eq!([exact, little].map(|by| rig.found(by, &longer)), [0, 11]);
    let op = rig.open(little, &[&text(2, 10)[..], &[9]].concat()).unwrap();
    assert_eq!(op.reused, 10);
    rig.carry_out();
    rig.compute(op.sequence, &[9]).unwrap();
    rig.close(op.sequence);
    assert_eq!(rig.found(exact, &[&text(2, 10)[..], &[9]].concat()), 0);
}

#[test]
fn more_loss_than_a_sequence_may_have_is_refused() {
    let mut rig = Rig::new(20, None);
    let app = rig.app(None);
    let tokens = text(1, 16);
    for (budget, drift) in
        [(0.0, LITTLE), (LITTLE, MUCH), (MUCH, f32::NAN), (MUCH, -LITTLE), (f32::NAN, LITTLE)]
    {
        let opened = rig.open(By::base(app).lossy(budget), &tokens).unwrap();
        rig.manager.append(opened.sequence, 16).unwrap();
        let refused = rig.manager.commit(opened.sequence, &tokens, drift);
        assert!(
            matches!(refused, Err(KvError::Drift { .. })),
            "{budget} allowed, {drift} found: {refused:?}"
        );
        assert_eq!(rig.manager.tokens(opened.sequence), Ok(0));
        rig.close(opened.sequence);
    }
}

/// What a sequence loses itself comes on top of what it has found, once.
#[test]
fn loss_over_loss_is_the_sum_of_both() {
    let mut rig = Rig::new(40, None);
    let app = rig.app(None);
    let prompt = text(1, 48);
    let by = |budget| By::base(app).lossy(budget);
    let first = rig.open(by(0.5), &prompt[..16]).unwrap().sequence;
    rig.compute_lossy(first, &prompt[..16], 0.5).unwrap();
    rig.close(first);
    let over = rig.open(by(0.75), &prompt).unwrap();
    assert_eq!(over.reused, 16);
    rig.compute_lossy(over.sequence, &prompt[16..32], 0.25).unwrap();
    rig.compute_lossy(over.sequence, &prompt[32..48], 0.125).unwrap();
    rig.manager.append(over.sequence, 1).unwrap();
    let refused = rig.manager.commit(over.sequence, &[1], 0.375);
    assert!(matches!(refused, Err(KvError::Drift { drift: 0.875, .. })), "{refused:?}");
    rig.close(over.sequence);
    assert_eq!([0.5, 0.625, 0.75].map(|budget| rig.found(by(budget), &prompt)), [16, 16, 48]);
}

/// What is there with more loss than a sequence may have, or than its own chunk has, takes no chunk's place.
#[test]
fn a_chunk_with_more_loss_takes_no_place() {
    let mut rig = Rig::new(60, None);
    let app = rig.app(None);
    let [little, much] = [LITTLE, MUCH].map(|budget| By::base(app).lossy(budget));
    let prompt = text(1, 32);
    let [one, two] = [little, much].map(|by| rig.open(by, &prompt).unwrap().sequence);
    rig.compute_lossy(two, &prompt, MUCH).unwrap();
    rig.compute_lossy(one, &prompt, LITTLE).unwrap();
    assert!(rig.places(one, 0).iter().zip(rig.places(two, 0)).all(|(a, b)| *a != b));
    rig.close(one);
    rig.close(two);
    assert_eq!((rig.found(little, &prompt), rig.found(much, &prompt)), (0, 32));
}

/// A chunk is replaced by one that was there with less loss; what was computed over the former keeps the former's.
#[test]
fn loss_is_not_forgotten_where_a_chunk_with_less_takes_its_place() {
    let mut rig = Rig::new(60, None);
    let app = rig.app(None);
    let [little, much] = [LITTLE, MUCH].map(|budget| By::base(app).lossy(budget));
    let prompt = text(1, 32);
    // Both at the same time, so that the second finds nothing of the first.
    let [one, two] = [little, much].map(|by| rig.open(by, &prompt).unwrap().sequence);
    rig.compute_lossy(two, &prompt[..8], MUCH).unwrap();
    rig.compute_lossy(one, &prompt[..16], LITTLE).unwrap();
    rig.close(one);
    rig.compute(two, &prompt[8..]).unwrap();
    rig.close(two);
    assert_eq!(rig.found(little, &prompt), 16);
    assert_eq!(rig.found(much, &prompt), 32);
}
