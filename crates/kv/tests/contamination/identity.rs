//! What a page is of: contents and nothing that only looks like them.

use interleaf_kv::{AdapterKey, ContentDigest, KvError};

use crate::rig::{By, Rig, key, text};

/// An app keeps an adapter under one name and loads another file under it: the engine drops the old contents and brings
/// the new ones, and nothing of the old may answer.
#[test]
fn other_weights_under_the_same_name_find_nothing() {
    let mut rig = Rig::new(40, Some(40));
    let app = rig.app(None);
    let prompt = text(1, 40);
    let old = rig.adapter(key(1), 0);
    assert_eq!(rig.turn(By::adapter(app, old), &prompt), 0);
    rig.manager.remove_adapter(old).unwrap();
    let new = rig.adapter(key(2), 0);
    assert_eq!(rig.turn(By::adapter(app, new), &prompt), 0);
    assert_eq!(rig.turn(By::adapter(app, new), &prompt), 40);
}

/// The same file under a second name is the same adapter, so that its pages are not computed twice.
#[test]
fn the_same_weights_are_the_same_adapter() {
    let mut rig = Rig::new(40, None);
    let app = rig.app(None);
    let prompt = text(1, 40);
    let one = rig.adapter(key(1), 0);
    rig.turn(By::adapter(app, one), &prompt);
    let spec = interleaf_kv::AdapterSpec {
        translation: None,
        key: key(1),
        shared_layers: 0,
        is_activated: false,
        rank_rows: Vec::new(),
    };
    assert_eq!(rig.manager.add_adapter(spec), Err(KvError::DuplicateAdapter));
    assert_eq!(rig.found(By::adapter(app, one), &prompt), 40);
    // Once it was removed its pages are gone, and its old handle is nobody's.
    rig.manager.remove_adapter(one).unwrap();
    let again = rig.adapter(key(1), 0);
    assert_ne!(one, again);
    assert_eq!(rig.found(By::adapter(app, again), &prompt), 0);
    assert_eq!(rig.open(By::adapter(app, one), &prompt).unwrap_err(), KvError::UnknownAdapter);
}

#[test]
fn another_scale_is_another_adapter() {
    let mut rig = Rig::new(40, None);
    let app = rig.app(None);
    let prompt = text(1, 40);
    let one = rig.adapter(key(1), 1);
    // The least that a scale can differ by.
    let other = rig.adapter(AdapterKey { scale_bits: key(1).scale_bits + 1, ..key(1) }, 1);
    rig.turn(By::adapter(app, one), &prompt);
    assert_eq!(rig.found(By::adapter(app, other), &prompt), 0);
    assert_eq!(rig.turn(By::adapter(app, other), &prompt), 0);
    assert_eq!(rig.found(By::adapter(app, one), &prompt), 40);
}

/// Systems that hash a context's adapter into its tokens, or tokens into a short hash, can be made to take one for another
/// (vLLM had a 64-bit hash that was not made for enemies). Here contents are compared, so there is nothing to forge; the
/// test tries what would work on such systems.
#[test]
fn no_text_and_no_digest_passes_for_another() {
    let mut rig = Rig::new(200, None);
    let app = rig.app(None);
    let digest = |bit: usize| {
        let mut bytes = [0x41; 32];
        bytes[bit / 8] ^= 1 << (bit % 8);
        AdapterKey { digest: ContentDigest(bytes), scale_bits: 0 }
    };
    let prompt = text(1, 40);
    let one = rig.adapter(digest(0), 0);
    rig.turn(By::adapter(app, one), &prompt);
    for bit in [1, 7, 128, 255] {
        let other = rig.adapter(digest(bit), 0);
        assert_eq!(rig.found(By::adapter(app, other), &prompt), 0, "digests differ in bit {bit}");
    }
    // A prompt whose tokens spell the adapter's digest, its scale and its number, before the text and after it.
    let spelt: Vec<u32> =
        digest(0).digest.0.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    for prefix in [&spelt[..], &[0, 1], &[1], &[1, 0], &[0]] {
        let forged = [prefix, &prompt].concat();
        assert_eq!(rig.found(By::base(app), &forged), 0);
        assert_eq!(rig.found(By::adapter(app, one), &forged), 0);
    }
    assert_eq!(rig.found(By::base(app), &prompt), 0);
    // Texts that differ in one bit, in the order of two tokens, or in where a number ends.
    let with = |change: &dyn Fn(&mut [u32])| {
        let mut changed = prompt.clone();
        change(&mut changed);
        changed
    };
    for (changed, alike) in [
        (with(&|t| t[0] ^= 1 << 31), 0),
        (with(&|t| t.swap(3, 4)), 3),
        (with(&|t| (t[5], t[6]) = (t[5] * 10 + t[6] / 1000, t[6] % 1000)), 5),
        (with(&|t| t[20] ^= 1), 20),
        (with(&|t| t.swap(15, 16)), 15),
    ] {
        assert_eq!(rig.found(By::adapter(app, one), &changed), alike);
    }
}

/// The same sixteen tokens after other ones are another chunk.
#[test]
fn a_chunk_is_of_all_the_tokens_before_it() {
    let mut rig = Rig::new(40, None);
    let app = rig.app(None);
    let [a, b, c] = [1, 2, 3].map(|name| text(name, 16));
    rig.turn(By::base(app), &[&a[..], &b, &c].concat());
    assert_eq!(rig.found(By::base(app), &[&b[..], &c].concat()), 0);
    assert_eq!(rig.found(By::base(app), &[&a[..], &c].concat()), 16);
    assert_eq!(rig.found(By::base(app), &[&a[..], &a, &b].concat()), 16);
    assert_eq!(rig.found(By::base(app), &[&a[..], &b, &b].concat()), 32);
}
