//! Chunks in lossy forms, over anchors: which are chosen, what becomes of anchors, and who may read them.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../small/mod.rs"]
mod small;
mod translated;

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::policy::Policy;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, Config, ContentDigest, Form, Layers, Manager, Op, OpKind,
    Open, Opened, Over, SequenceId, Source, TierConfig, Translation,
};

use self::small::PAGE;

const LAYERS: usize = 4;

/// What a test needs of a manager.
struct World {
    manager: Manager,
    app: AppId,
    now: f64,
}

fn world(forms: Vec<Form>, chunks: u32) -> World {
    world_of(small::config(LAYERS, chunks, Policy::Lru, forms))
}

/// The same above flash.
fn stored_world(forms: Vec<Form>, chunks: u32) -> World {
    let mut config = small::config(LAYERS, chunks, Policy::Lru, forms);
    config.tiers.push(TierConfig { striped: false, chunks: 64 });
    world_of(config)
}

fn world_of(config: Config) -> World {
    let mut manager = Manager::new(config).expect("lawful");
    let app = manager.open_app(None).expect("the first");
    World { manager, app, now: 0.0 }
}

fn delta(over: Over) -> Form {
    Form { layers: Layers::Alike(PAGE / 4), bits: 4, drift: 0.01, over, by_density: false }
}

fn text() -> Vec<u32> {
    (0..2 * CHUNK_TOKENS as u32).collect()
}

impl World {
    fn adapter(&mut self, digest: u8, shared_layers: usize, translation: Option<Translation>) -> AdapterId {
        let key = AdapterKey { digest: ContentDigest([digest; 32]), scale_bits: 1.0_f32.to_bits() };
        let spec =
            AdapterSpec { key, shared_layers, is_activated: false, translation, rank_rows: Vec::new() };
        self.manager.add_adapter(spec).expect("new")
    }

    fn call<'a>(&self, adapter: Option<AdapterId>, tokens: &'a [u32], budget: f32) -> Open<'a> {
        let adapter = adapter.map(|id| (id, 0));
        Open { app: self.app, adapter, tokens, most: tokens.len(), budget, is_kept: true, now: self.now }
    }

    fn open(&mut self, adapter: Option<AdapterId>, tokens: &[u32], budget: f32) -> Opened {
        self.now += 1.0;
        let call = self.call(adapter, tokens, budget);
        self.manager.open(&call).expect("it opens")
    }

    /// Computes what is not there, and returns what closing wants moved.
    fn answer(&mut self, adapter: Option<AdapterId>, tokens: &[u32], budget: f32) -> Vec<Op> {
        let Opened { sequence, reused, .. } = self.open(adapter, tokens, budget);
        self.manager.append(sequence, tokens.len() - reused).expect("room");
        self.manager.commit(sequence, &tokens[reused..], 0.0).expect("room");
        self.close(sequence)
    }

    fn close(&mut self, sequence: SequenceId) -> Vec<Op> {
        let moves = self.manager.close(sequence, self.now).expect("open");
        self.manager.check().expect("sound");
        moves
    }

    fn done(&mut self, moves: Vec<Op>) {
        for op in moves {
            assert!(matches!(op.kind, OpKind::Encode { .. }), "{op:?}");
            let more = self.manager.done(op.id);
            self.manager.check().expect("sound");
            self.done(more);
        }
    }

    /// Moves end, of whatever kind they are.
    fn moved(&mut self, moves: Vec<Op>) {
        for op in moves {
            let more = self.manager.done(op.id);
            self.manager.check().expect("sound");
            self.moved(more);
        }
    }

    fn sources(&self, adapter: Option<AdapterId>, tokens: &[u32], budget: f32) -> Vec<Vec<Source>> {
        self.manager.sources(&self.call(adapter, tokens, budget)).expect("known")
    }
}

#[test]
fn what_its_users_allow_is_kept_over_the_bases_pages() {
    let mut world = world(vec![delta(Over::Base)], 64);
    let adapter = world.adapter(1, 1, None);
    // Without the base's there is nothing to be decoded over.
    assert_eq!(world.answer(Some(adapter), &text(), 0.1), []);
    // Nor would it pay to compute them for one adapter alone.
    assert_eq!(world.manager.lacking_base(), None);
    // Once that is there, of which a layer was, it is.
    let before = world.manager.held_bytes(0) + 6 * PAGE;
    let moves = world.answer(None, &text(), 0.0);
    assert_eq!(moves.len(), 2);
    world.done(moves);
    assert_eq!(world.manager.lacking_base(), None);
    assert_eq!(world.answer(Some(adapter), &text(), 0.1), []);
    // Three of four layers of two chunks are a quarter of what they were; four fit into a block.
    assert_eq!(before - world.manager.held_bytes(0), 6 * PAGE - 3 * PAGE);
    let over = vec![Source::Shared, Source::OverAnchor(0), Source::OverAnchor(0), Source::OverAnchor(0)];
    assert_eq!(world.sources(Some(adapter), &text(), 0.1), vec![over; 2]);
    // Whoever wants it exact finds nothing of it, and computes it.
    assert_eq!(world.sources(Some(adapter), &text(), 0.0), vec![vec![Source::Recomputed; LAYERS]; 2]);
    assert_eq!(world.open(Some(adapter), &text(), 0.0).reused, 0);
    assert_eq!(world.open(Some(adapter), &text(), 0.005).reused, 0, "less than it has lost");
    assert_eq!(world.open(Some(adapter), &text(), 0.1).reused, text().len());
}

#[test]
fn the_bases_pages_are_wanted_where_they_save_more_than_they_take() {
    let mut world = world(vec![delta(Over::Base)], 64);
    let adapters: Vec<AdapterId> = (1..4).map(|digest| world.adapter(digest, 0, None)).collect();
    // Each takes four pages of four layers, and a quarter of that over the base's four.
    for (adapter, is_wanted) in adapters.iter().zip([false, true, true]) {
        assert_eq!(world.answer(Some(*adapter), &text(), 0.2), []);
        let wanted = is_wanted.then(|| (text(), 0.2));
        assert_eq!(world.manager.lacking_base(), wanted);
    }
    let moves = world.answer(None, &text(), 0.0);
    world.done(moves);
    assert_eq!(world.manager.lacking_base(), None);
    for adapter in adapters {
        let over = vec![Source::OverAnchor(0); LAYERS];
        assert_eq!(world.sources(Some(adapter), &text(), 0.2), vec![over; 2]);
    }
}

#[test]
fn exact_contexts_are_never_put_into_a_lossy_form() {
    let mut world = world(vec![delta(Over::Nothing)], 64);
    assert_eq!(world.answer(None, &text(), 0.0), []);
    // Nor because somebody else would allow it.
    assert_eq!(world.answer(None, &text(), 0.5), []);
    // Nor if an exact call begins to use it meanwhile.
    let longer: Vec<u32> = (100..100 + 2 * CHUNK_TOKENS as u32).collect();
    let moves = world.answer(None, &longer, 0.5);
    let exact = world.open(None, &longer, 0.0).sequence;
    world.close(exact);
    world.done(moves);
    assert_eq!(world.sources(None, &longer, 0.0), vec![vec![Source::Own; LAYERS]; 2]);
}

/// It has no pages of the layers that it shares with the base, and the base has none of the others.
#[test]
fn nothing_is_decoded_over_what_shares_layers_itself() {
    let mut world = world(vec![delta(Over::Any)], 64);
    let [sharing, own, follower] = [(1, 1), (2, 0), (3, 0)].map(|(digest, n)| world.adapter(digest, n, None));
    assert_eq!(world.answer(Some(sharing), &text(), 0.0), []);
    assert_eq!(world.answer(Some(follower), &text(), 0.1), []);
    // One that has all its layers is an anchor.
    assert_eq!(world.answer(Some(own), &text(), 0.0), []);
    let moves = world.answer(Some(follower), &text(), 0.1);
    assert_eq!(moves.len(), 2);
    world.done(moves);
    assert_eq!(world.sources(Some(follower), &text(), 0.1), vec![vec![Source::OverAnchor(0); LAYERS]; 2]);
}

#[test]
fn an_anchor_stays_while_something_is_decoded_over_it() {
    let mut world = world(vec![delta(Over::Base)], 5);
    let adapter = world.adapter(1, 0, None);
    world.answer(None, &text(), 0.0);
    let moves = world.answer(Some(adapter), &text(), 0.1);
    world.done(moves);
    let reader = world.open(Some(adapter), &text(), 0.1).sequence;
    // The base's two chunks and the follower's one block are held; the rest is too small for more than two.
    let other = world.open(None, &[], 0.0).sequence;
    assert!(world.manager.append(other, 3 * CHUNK_TOKENS).is_err());
    world.manager.append(other, 2 * CHUNK_TOKENS).expect("room for two");
    world.close(other);
    world.close(reader);
    assert_eq!(world.manager.look_up(&world.call(None, &text(), 0.0)), Ok(text().len()));
    // Once nobody reads it the follower goes first, and then its anchor.
    let other = world.open(None, &[], 0.0).sequence;
    world.manager.append(other, 5 * CHUNK_TOKENS).expect("all of it");
    world.close(other);
}

/// Of a path's chunks the first is exact, and the second over the base's; so nothing keeps the base's first there.
#[test]
fn an_anchor_does_not_come_in_place_of_the_chunk_before_it() {
    let mut world = stored_world(vec![delta(Over::Base)], 5);
    let adapter = world.adapter(1, 0, None);
    let (text, first) = (text(), &text()[..CHUNK_TOKENS]);
    for (adapter, tokens, budget) in
        [(None, &text[..], 0.0), (Some(adapter), first, 0.0), (Some(adapter), &text, 0.1)]
    {
        let moves = world.answer(adapter, tokens, budget);
        world.moved(moves);
    }
    let sources = vec![vec![Source::Own; LAYERS], vec![Source::OverAnchor(0); LAYERS]];
    assert_eq!(world.sources(Some(adapter), &text, 0.1), sources);
    // The second ones go to make room for others; the base's first is the only one that may go then.
    let reader = world.open(Some(adapter), first, 0.0).sequence;
    let base = world.open(None, first, 0.0).sequence;
    let others = [1, 2].map(|chunks| {
        let other = world.open(None, &[], 0.0).sequence;
        world.manager.append(other, chunks * CHUNK_TOKENS).expect("room");
        other
    });
    world.close(base);
    let cut = world.open(Some(adapter), &text, 0.1);
    world.manager.check().expect("sound");
    assert_eq!((cut.reused, cut.moves), (first.len(), vec![]), "there is no room beside the base's first");
    world.close(cut.sequence);
    // Where there is, both come.
    world.close(others[1]);
    let whole = world.open(Some(adapter), &text, 0.1);
    world.manager.check().expect("sound");
    assert_eq!((whole.reused, whole.moves.len()), (text.len(), 2));
    world.moved(whole.moves);
    assert_eq!(world.manager.is_ready(whole.sequence), Ok(true));
    for sequence in [whole.sequence, reader, others[0]] {
        world.close(sequence);
    }
}

#[test]
fn followers_of_another_adapter_follow_the_base_once_it_is_there() {
    let mut world = world(vec![delta(Over::Any)], 64);
    let [first, second] = [1, 2].map(|digest| world.adapter(digest, 0, None));
    world.answer(Some(first), &text(), 0.0);
    let moves = world.answer(Some(second), &text(), 0.1);
    assert_eq!(moves.len(), 2);
    world.done(moves);
    assert_eq!(world.manager.tick(world.now), [], "there is nothing better yet");
    world.answer(None, &text(), 0.0);
    let moves = world.manager.tick(world.now);
    assert_eq!(moves.len(), 2);
    world.done(moves);
    assert_eq!(world.manager.tick(world.now), []);
    // The first adapter's pages may go, the base's not: the second's are read over them.
    world.manager.remove_adapter(first).expect("known");
    world.manager.check().expect("sound");
    let over = vec![Source::OverAnchor(0); LAYERS];
    assert_eq!(world.sources(Some(second), &text(), 0.1), vec![over; 2]);
}

#[test]
fn the_only_follower_of_what_should_go_is_decoded() {
    let mut world = world(vec![delta(Over::Base)], 20);
    let adapter = world.adapter(1, 0, None);
    let text = &text()[..CHUNK_TOKENS];
    world.answer(None, text, 0.0);
    let moves = world.answer(Some(adapter), text, 0.1);
    world.done(moves);
    // It is used again, and the base's is not; and there is no need yet.
    let reader = world.open(Some(adapter), text, 0.1).sequence;
    world.close(reader);
    assert_eq!(world.manager.tick(world.now), []);
    let other = world.open(None, &[], 0.0).sequence;
    world.manager.append(other, 17 * CHUNK_TOKENS).expect("room");
    let moves = world.manager.tick(world.now);
    assert_eq!(moves.len(), 1, "memory is busy, and there is room for one");
    world.done(moves);
    assert_eq!(world.sources(Some(adapter), text, 0.1), [[Source::Own; LAYERS]]);
    assert_eq!(world.open(Some(adapter), text, 0.0).reused, 0, "it stays as lossy as it was");
    // Now the base's may go, and goes.
    assert_eq!(world.manager.tick(world.now), []);
    assert_eq!(world.manager.look_up(&world.call(None, text, 0.0)), Ok(0));
    assert_eq!(world.manager.look_up(&world.call(Some(adapter), text, 0.1)), Ok(text.len()));
    world.close(other);
}

#[test]
fn a_removed_adapters_pages_stay_while_others_are_read_over_them() {
    let mut world = world(vec![delta(Over::Any)], 64);
    let [first, second] = [1, 2].map(|digest| world.adapter(digest, 0, None));
    world.answer(Some(first), &text(), 0.0);
    let moves = world.answer(Some(second), &text(), 0.1);
    world.done(moves);
    let reader = world.open(Some(second), &text(), 0.1).sequence;
    world.manager.remove_adapter(first).expect("known");
    world.manager.check().expect("sound");
    assert_eq!(world.manager.tokens(reader), Ok(text().len()));
    world.close(reader);
    // With the pages that they were decoded over the second's are gone, too.
    assert_eq!(world.manager.look_up(&world.call(Some(second), &text(), 0.1)), Ok(0));
    assert_eq!(world.manager.held_bytes(0), 0);
}
