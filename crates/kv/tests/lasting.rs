//! What of the lowest tier the next manager can be told of, and that it finds it where it was.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use interleaf_kv::policy::Policy;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, Config, ContentDigest, Manager, Op, OpKind, Open, Salt,
    StoredChunk, StoredPage, TierConfig, TrimLevel,
};

mod small;

const LAYERS: usize = 3;

/// Memory, and below it as many chunks as there may be.
fn config(chunks: u32, striped: bool) -> Config {
    let mut config = small::config(LAYERS, 16, Policy::Lru, Vec::new());
    config.tiers.push(TierConfig { striped, chunks });
    config
}

fn open<'a>(app: AppId, adapter: Option<AdapterId>, tokens: &'a [u32]) -> Open<'a> {
    let adapter = adapter.map(|id| (id, 0));
    Open { app, adapter, tokens, most: tokens.len(), budget: 0.0, is_kept: true, now: 0.0 }
}

fn adapter(manager: &mut Manager, digest: u8, shared_layers: usize) -> AdapterId {
    let key = AdapterKey { digest: ContentDigest([digest; 32]), scale_bits: 0 };
    let spec =
        AdapterSpec { key, shared_layers, is_activated: false, translation: None, rank_rows: Vec::new() };
    manager.add_adapter(spec).unwrap()
}

/// Computes a text and carries out what follows, as it comes. Returns what the next manager can be told of, and where it lies.
fn compute(
    manager: &mut Manager,
    app: AppId,
    adapter: Option<AdapterId>,
    text: &[u32],
) -> Vec<(StoredChunk, Vec<StoredPage>)> {
    let opened = manager.open(&open(app, adapter, text)).unwrap();
    opened.moves.iter().for_each(|op| drop(manager.done(op.id)));
    manager.append(opened.sequence, text.len() - opened.reused).unwrap();
    manager.commit(opened.sequence, &text[opened.reused..], 0.0).unwrap();
    let moves = manager.close(opened.sequence, 1.0).unwrap();
    moves.into_iter().filter_map(|op| write(manager, op)).collect()
}

fn write(manager: &mut Manager, op: Op) -> Option<(StoredChunk, Vec<StoredPage>)> {
    assert_eq!(op.kind, OpKind::Write { from: 0, to: 1 });
    let pages = manager.stored_at(op.id).unwrap().pages;
    let lasting = manager.lasting(op.id);
    assert!(manager.done(op.id).is_empty());
    manager.check().unwrap();
    lasting.map(|chunk| (chunk, pages))
}

#[test]
fn what_was_written_is_read_by_the_next_manager_where_it_lies() {
    for striped in [true, false] {
        let mut manager = Manager::new(config(20, striped)).unwrap().with_lasting_tier();
        let app = manager.open_app(None).unwrap();
        let acts = adapter(&mut manager, 1, 1);
        let text: Vec<u32> = (0..40).collect();
        let mut written = compute(&mut manager, app, None, &text);
        assert_eq!(written.len(), 2, "whole chunks alone");
        written.extend(compute(&mut manager, app, Some(acts), &text));
        assert_eq!(written.len(), 4);
        let of_adapter = &written[2].0;
        assert_eq!((of_adapter.layers, of_adapter.anchor), ((1, 3), Some(written[0].0.id)));
        assert!(manager.take_forgotten().is_empty());

        let mut next = Manager::new(config(20, striped)).unwrap().with_lasting_tier();
        let app = next.open_app(None).unwrap();
        let [other, acts] = [2, 1].map(|digest| adapter(&mut next, digest, 1));
        let told: Vec<StoredChunk> = written
            .iter()
            .map(|(chunk, _)| StoredChunk { adapter: chunk.adapter.map(|_| acts), ..chunk.clone() })
            .collect();
        // The base's first, as where adapters come later.
        let base = next.restore(&told[..2]);
        let restored = next.restore(&told);
        assert!(restored.iter().all(Option::is_some) && restored[..2] == base, "{restored:?}");
        next.check().unwrap();
        // Twice the same is there once.
        assert_eq!(next.restore(&told), restored);
        next.check().unwrap();
        let elsewhere = StoredChunk { places: told[1].places.clone(), ..told[0].clone() };
        assert_eq!(next.restore(&[elsewhere]), [None], "it is there, and not there");
        assert_eq!(next.look_up(&open(app, Some(other), &text)), Ok(0));
        for (adapter, own) in [(Some(acts), [2, 3]), (None, [0, 1])] {
            let opened = next.open(&open(app, adapter, &text)).unwrap();
            assert_eq!(opened.reused, 32);
            let reads = opened.moves.iter().filter(|op| matches!(op.kind, OpKind::Read { from: 1 }));
            let read: Vec<_> = reads.map(|op| next.stored_at(op.id).unwrap().pages).collect();
            assert!(own.iter().all(|&chunk| read.contains(&written[chunk].1)), "{read:?}");
            opened.moves.iter().for_each(|op| drop(next.done(op.id)));
            next.check().unwrap();
            next.close(opened.sequence, 2.0).unwrap();
            next.trim(TrimLevel::Warning);
        }
    }
}

#[test]
fn what_no_longer_fits_is_not_restored() {
    let mut manager = Manager::new(config(20, true)).unwrap();
    let app = manager.open_app(None).unwrap();
    let acts = adapter(&mut manager, 1, 1);
    let text: Vec<u32> = (0..32).collect();
    let base: Vec<_> = compute(&mut manager, app, None, &text).into_iter().map(|(chunk, _)| chunk).collect();
    let own: Vec<_> =
        compute(&mut manager, app, Some(acts), &text).into_iter().map(|(chunk, _)| chunk).collect();
    let all = [&base[..], &own].concat();
    let restore = |chunks: &[StoredChunk], room: u32| {
        let mut next = Manager::new(config(room, true)).unwrap();
        let adapter = adapter(&mut next, 1, 1);
        let chunks: Vec<StoredChunk> = chunks
            .iter()
            .map(|chunk| StoredChunk { adapter: chunk.adapter.map(|_| adapter), ..chunk.clone() })
            .collect();
        let restored = next.restore(&chunks);
        next.check().unwrap();
        restored.iter().map(Option::is_some).collect::<Vec<bool>>()
    };
    assert_eq!(restore(&all, 20), [true; 4]);
    assert_eq!(restore(&all[1..], 20), [false; 3], "without the first chunk");
    assert_eq!(restore(&own, 20), [false; 2], "without the base's");
    assert_eq!(restore(&all, 1), [true, false, false, false], "of a file that was cut");
    let wrong = |change: &dyn Fn(&mut StoredChunk)| {
        let mut chunks = all.clone();
        change(&mut chunks[2]);
        restore(&chunks, 20)[2]
    };
    assert!(wrong(&|_| ()));
    assert!(!wrong(&|chunk| chunk.tokens[3] += 1), "its lower layers are of other tokens");
    assert!(!wrong(&|chunk| chunk.layers = (2, 3)), "more of its layers are the base's than are");
    assert!(!wrong(&|chunk| chunk.layers = (1, 4)));
    assert!(!wrong(&|chunk| chunk.layers = (1, 2)));
    assert!(!wrong(&|chunk| chunk.form = 1), "a form that nobody has told of");
    assert!(!wrong(&|chunk| chunk.drift = 0.1), "more than its users allow");
    assert!(!wrong(&|chunk| chunk.anchor = None));
    assert!(!wrong(&|chunk| chunk.places[0] = all[1].places[1]), "where another lies");
    assert!(!wrong(&|chunk| chunk.places.truncate(1)));
}

#[test]
fn what_is_forgotten_is_said_and_secrets_are_in_no_file() {
    let mut manager = Manager::new(config(2, true)).unwrap().with_lasting_tier();
    let [app, secret] = [None, Some(Salt([7; 16]))].map(|salt| manager.open_app(salt).unwrap());
    let text: Vec<u32> = (0..16).collect();
    assert!(compute(&mut manager, secret, None, &text).is_empty());
    let first = compute(&mut manager, app, None, &text);
    assert_eq!(first.len(), 1);
    assert!(manager.take_forgotten().is_empty());
    // There is room for two: the secret goes, then the first.
    let others = [100, 200].map(|start| (start..start + 16).collect::<Vec<u32>>());
    let written = others.map(|other| compute(&mut manager, app, None, &other).remove(0).0);
    let forgotten = manager.take_forgotten();
    assert_eq!((forgotten.len(), forgotten[1]), (2, first[0].0.id));
    // An app that is gone takes what it has there with it.
    manager.close_app(app).unwrap();
    let mut forgotten = manager.take_forgotten();
    forgotten.sort_unstable();
    let mut names = written.map(|chunk| chunk.id);
    names.sort_unstable();
    assert_eq!(forgotten, names);
}
