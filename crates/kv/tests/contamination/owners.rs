//! Who may use what: apps, their salts and their handles.

use interleaf_kv::policy::AppState;
use interleaf_kv::{KvError, MOST_SEQUENCES, Open, TrimLevel};

use crate::rig::{By, CHUNK, Rig, key, text};

#[test]
fn apps_share_equal_prefixes_unless_a_salt_parts_them() {
    let mut rig = Rig::new(60, None);
    let apps = [None, None, Some(1), Some(2), Some(1)].map(|salt| rig.app(salt));
    let adapter = rig.adapter(key(1), 2);
    let prompt = text(1, 40);
    for with in [None, Some((adapter, 0))] {
        // The first under each salt finds nothing, whatever is there under another one or none.
        let found = apps.map(|app| rig.turn(By { adapter: with, ..By::base(app) }, &prompt));
        assert_eq!(found, [0, 40, 0, 0, 40]);
    }
}

/// A prompt that spells a salt is a prompt.
#[test]
fn no_text_passes_for_a_salt() {
    let mut rig = Rig::new(60, None);
    let (open, salted) = (rig.app(None), rig.app(Some(7)));
    let prompt = text(1, 40);
    rig.turn(By::base(salted), &prompt);
    let spelt = [u32::from_le_bytes([7; 4]); 4];
    for prefix in [&spelt[..], &[7], &[1], &[0]] {
        assert_eq!(rig.found(By::base(open), &[prefix, &prompt].concat()), 0);
    }
    assert_eq!(rig.found(By::base(open), &prompt), 0);
}

#[test]
fn a_sequence_answers_to_its_own_app_alone() {
    let mut rig = Rig::new(20, None);
    let (owner, other) = (rig.app(None), rig.app(None));
    let (sequence, _) = rig.begin(By::base(owner), &text(1, 20));
    assert_eq!(rig.manager.check_owner(sequence, owner), Ok(()));
    assert_eq!(rig.manager.check_owner(sequence, other), Err(KvError::NotYours(sequence)));
    rig.close(sequence);
    assert_eq!(rig.manager.check_owner(sequence, owner), Err(KvError::UnknownSequence(sequence)));
    // A name is never given again.
    let (next, _) = rig.begin(By::base(other), &text(1, 20));
    assert_ne!(next, sequence);
    assert_eq!(rig.manager.close(sequence, 0.0), Err(KvError::UnknownSequence(sequence)));
    assert_eq!(rig.manager.truncate(sequence, 0), Err(KvError::UnknownSequence(sequence)));
    assert_eq!(rig.manager.commit(sequence, &[1], 0.0), Err(KvError::UnknownSequence(sequence)));
    assert_eq!(rig.manager.page_table(sequence).unwrap_err(), KvError::UnknownSequence(sequence));
}

/// A count of those that use a chunk must not begin again at nothing.
#[test]
fn no_more_sequences_are_open_than_can_be_counted() {
    let mut rig = Rig::new(4, None);
    let app = rig.app(None);
    let prompt = text(1, 16);
    rig.turn(By::base(app), &prompt);
    let request =
        Open { app, adapter: None, tokens: &prompt, most: 16, budget: 0.0, is_kept: true, now: 0.0 };
    let mut open = || rig.manager.open(&request);
    let last = (0..MOST_SEQUENCES).map(|_| open().unwrap().sequence).last().unwrap();
    assert_eq!(open().unwrap_err(), KvError::TooManySequences { most: MOST_SEQUENCES });
    assert_eq!(rig.manager.close(last, 0.0), Ok(Vec::new()));
    rig.manager.trim(TrimLevel::Warning);
    assert_eq!(rig.held()[0], CHUNK, "it is in use");
    assert!(rig.manager.open(&request).is_ok());
    rig.check();
}

/// The next app gets the place of the one before in every table, and nothing else of it.
#[test]
fn a_closed_apps_handle_is_nobodys() {
    let mut rig = Rig::new(20, None);
    let old = rig.app(Some(1));
    let prompt = text(1, 20);
    rig.turn(By::base(old), &prompt);
    rig.manager.close_app(old).unwrap();
    assert_eq!(rig.open(By::base(old), &prompt).unwrap_err(), KvError::UnknownApp);
    let new = rig.app(Some(2));
    assert_ne!(old, new);
    let (sequence, found) = rig.begin(By::base(new), &prompt);
    assert_eq!(found, 0);
    assert_eq!(rig.open(By::base(old), &prompt).unwrap_err(), KvError::UnknownApp);
    assert_eq!(rig.manager.check_owner(sequence, old), Err(KvError::UnknownApp));
    assert_eq!(rig.manager.set_app_state(old, AppState::Killed, 0.0), Err(KvError::UnknownApp));
    assert_eq!(rig.manager.close_app(old), Err(KvError::UnknownApp));
    assert_eq!(rig.manager.check_owner(sequence, new), Ok(()));
}

/// Of a closed app everything goes that no other has used, however long its contexts were, and nothing of another's.
#[test]
fn a_closed_app_leaves_nothing_of_its_own() {
    let mut rig = Rig::new(40, Some(40));
    let (closed, stays) = (rig.app(None), rig.app(None));
    let adapter = rig.adapter(key(1), 2);
    let common = text(1, 32);
    rig.turn(By::base(closed), &text(2, 70));
    rig.turn(By::base(closed), &[&common[..], &text(3, 40)].concat());
    rig.turn(By::adapter(closed, adapter), &text(4, 70));
    rig.turn(By::base(stays), &[&common[..], &text(5, 16)].concat());
    rig.manager.close_app(closed).unwrap();
    rig.check();
    assert_eq!((rig.manager.chunks(), rig.held()), (3, [3 * CHUNK, 3 * CHUNK]));
    assert_eq!(rig.found(By::base(stays), &[&common[..], &text(5, 16)].concat()), 48);
}

/// What another app reads stays, if only in the layers that its own chunks share.
#[test]
fn a_closed_app_takes_nothing_of_anothers() {
    let mut rig = Rig::new(40, Some(40));
    let (closed, stays) = (rig.app(None), rig.app(None));
    let adapter = rig.adapter(key(1), 2);
    let prompt = text(1, 48);
    rig.turn(By::base(closed), &prompt);
    rig.turn(By::adapter(stays, adapter), &prompt);
    rig.manager.trim(TrimLevel::Warning);
    assert_eq!(rig.held()[0], 0, "all of it is in flash");
    rig.manager.close_app(closed).unwrap();
    rig.check();
    assert_eq!(rig.found(By::adapter(stays, adapter), &prompt), 48);
}
