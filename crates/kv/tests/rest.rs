//! Chunks at rest: what puts them there, what wakes them, and what becomes of them when that does not end well.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use interleaf_contract::{
    Bits, CHUNK_TOKENS, JointCodec, PAGE_UNIT, PageCodec, PageElement, PageHalf, PoolGeometry,
};
use interleaf_kv::policy::Policy;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, Config, ContentDigest, Form, KvError, LayerForm, Layers,
    Manager, Op, OpKind, Open, Opened, Over, PageForm, TierConfig,
};

const LAYERS: usize = 3;

const TEXT: [u32; 2 * CHUNK_TOKENS] = [5; 2 * CHUNK_TOKENS];

const CODEC: JointCodec = JointCodec { rank: 64, bits: Bits::Four };

/// Bytes at rest of a chunk.
const RESTING: u64 = 16 * 36;

fn pool(slots: usize) -> PoolGeometry {
    PoolGeometry { layers: LAYERS, kv_heads: 1, head_dim: 64, slots, element: PageElement::F16 }
}

fn at_rest(drift: f32) -> Form {
    let layers = Layers::at_rest(CODEC, 0, LAYERS);
    Form { layers, bits: 0, drift, over: Over::Base, by_density: false }
}

fn delta() -> Form {
    let [k, v] = [PageHalf::K, PageHalf::V]
        .map(|half| PageForm::stored(&pool(1), half, PageCodec::Delta(Bits::Four), None));
    let layers = Layers::Coded(Arc::from(vec![LayerForm { k, v }; LAYERS]));
    Form { layers, bits: 4, drift: 0.001, over: Over::Base, by_density: false }
}

fn q8() -> Form {
    let [k, v] = [PageHalf::K, PageHalf::V]
        .map(|half| PageForm::stored(&pool(1), half, PageCodec::Quantised(Bits::Eight), None));
    let layers = Layers::Coded(Arc::from(vec![LayerForm { k, v }; LAYERS]));
    Form { layers, bits: 8, drift: 0.001, over: Over::Nothing, by_density: false }
}

struct World {
    manager: Manager,
    app: AppId,
    adapter: AdapterId,
}

impl World {
    /// The base's and the adapter's chunks are there, these exact and in use by nobody.
    fn new(slots: usize, forms: Vec<Form>) -> Self {
        Self::sharing(slots, 0, Vec::new(), forms)
    }

    /// The base's are in the first of its forms, if it has any.
    fn sharing(slots: usize, shared_layers: usize, base: Vec<Form>, forms: Vec<Form>) -> Self {
        let config = Config { policy: Policy::Lru, ..Config::in_memory(&pool(slots), 1024) };
        let mut manager = Manager::new(config).expect("lawful");
        let app = manager.open_app(None).expect("the first");
        let key = AdapterKey { digest: ContentDigest([3; 32]), scale_bits: 1.0_f32.to_bits() };
        let (translation, rank_rows) = (None, Vec::new());
        let spec = AdapterSpec { key, shared_layers, is_activated: false, translation, rank_rows };
        let adapter = manager.add_adapter(spec).expect("new");
        let coded = TEXT.len() / CHUNK_TOKENS * base.len();
        manager.add_forms(None, base).expect("lawful");
        manager.add_forms(Some(adapter), forms).expect("lawful");
        let mut world = Self { manager, app, adapter };
        for (who, coded) in [(None, coded), (Some(adapter), 0)] {
            let opened = world.open(who, 0.1);
            world.compute(&opened);
            let moves = world.close(&opened);
            assert_eq!(moves.len(), coded);
            moves.iter().for_each(|op| assert_eq!(world.manager.encoded(op.id, 0.001), []));
        }
        world
    }

    fn open(&mut self, adapter: Option<AdapterId>, budget: f32) -> Opened {
        let adapter = adapter.map(|id| (id, 0));
        let (app, most, now) = (self.app, TEXT.len(), 0.0);
        let open = Open { app, adapter, tokens: &TEXT, most, budget, is_kept: true, now };
        let opened = self.manager.open(&open).expect("it opens");
        self.manager.check().expect("sound");
        opened
    }

    fn compute(&mut self, opened: &Opened) {
        let had = self.manager.tokens(opened.sequence).expect("open");
        self.manager.append(opened.sequence, TEXT.len() - had).expect("room");
        self.manager.commit(opened.sequence, &TEXT[had..], 0.0).expect("room");
    }

    fn close(&mut self, opened: &Opened) -> Vec<Op> {
        let moves = self.manager.close(opened.sequence, 0.0).expect("open");
        self.manager.check().expect("sound");
        moves
    }

    /// Everything goes to rest, at a cost.
    fn rest(&mut self, drift: f32) -> Vec<Op> {
        let moves = self.manager.rest(9);
        let follows = moves.iter().flat_map(|op| self.manager.encoded(op.id, drift)).collect();
        self.manager.check().expect("sound");
        follows
    }

    fn resting() -> Self {
        let mut world = Self::new(20, vec![at_rest(0.01), delta()]);
        assert_eq!(world.rest(0.02), []);
        world
    }

    fn bytes_at_rest(&self) -> u64 {
        self.manager.usage_at_rest().values().sum()
    }
}

#[test]
fn what_is_at_rest_is_woken_by_who_opens_it_and_goes_back_when_it_is_closed() {
    let mut world = World::resting();
    assert_eq!(world.manager.rest(9), [], "all that may is at rest");
    // Parts of 192 bytes in pieces as long.
    assert_eq!(world.bytes_at_rest(), 2 * RESTING);
    let base = 2 * LAYERS as u64 * 2 * pool(1).page_bytes() as u64;
    let usage = world.manager.usage();
    assert_eq!((usage.cached, usage.encoded), (base + 2 * RESTING, 2 * RESTING));
    assert_eq!(world.manager.usage_by_codec().values().sum::<u64>(), base, "no page is at rest");
    for _ in 0..2 {
        let opened = world.open(Some(world.adapter), 0.1);
        assert_eq!((opened.reused, opened.moves.len()), (TEXT.len(), 2));
        assert_eq!(world.manager.is_ready(opened.sequence), Ok(false));
        for (chunk, op) in opened.moves.iter().enumerate() {
            assert_eq!(op.kind, OpKind::Materialise { form: 1 });
            let rest = world.manager.rest_of(op.id).expect("at rest");
            assert_eq!((rest.adapter, rest.codec, rest.chunk as usize), (world.adapter, CODEC, chunk));
            assert_eq!(rest.parts.iter().map(|(.., bytes)| u64::from(*bytes)).sum::<u64>(), RESTING);
            let table = world.manager.page_table(opened.sequence).expect("open");
            for layer in 0..LAYERS {
                assert_eq!(table.entry(layer, chunk), Some(rest.own[layer]));
                assert_eq!(rest.own[layer].v.codec, PageElement::F16.into());
                assert!(rest.base[layer].k.at != rest.own[layer].k.at);
            }
            assert_eq!(world.manager.done(op.id), []);
        }
        assert_eq!(world.manager.is_ready(opened.sequence), Ok(true));
        assert_eq!(world.manager.drift(opened.sequence), Ok(0.02));
        assert_eq!(world.bytes_at_rest(), 2 * RESTING, "its bytes stay beside its pages");
        assert_eq!(world.manager.usage().in_use, 2 * base + 2 * RESTING);
        assert_eq!(world.close(&opened), [], "nothing has to be moved");
        assert_eq!(world.manager.usage(), usage);
    }
}

#[test]
fn the_newest_chunks_that_are_to_stay_exact_do_not_go_to_rest() {
    let mut world = World::new(8, vec![at_rest(0.001)]);
    world.manager.keep_newest(1);
    assert_eq!(world.rest(0.001), []);
    assert_eq!((world.bytes_at_rest(), world.manager.rest(9).len()), (RESTING, 0));
    world.manager.keep_newest(0);
    world.rest(0.001);
    assert_eq!(world.bytes_at_rest(), 2 * RESTING);
}

#[test]
fn exact_calls_and_those_of_smaller_budgets_do_not_find_it() {
    let mut world = World::resting();
    for budget in [0.0, 0.015] {
        assert_eq!(world.open(Some(world.adapter), budget).reused, 0);
    }
    // What a call computes within its budget beside what is at rest is its own.
    let opened = world.open(Some(world.adapter), 0.03);
    assert_eq!(opened.reused, TEXT.len());
}

#[test]
fn what_costs_too_much_at_rest_takes_another_form() {
    let mut world = World::new(20, vec![at_rest(0.01), delta()]);
    let next = world.rest(0.5);
    assert!(next.len() == 2 && next.iter().all(|op| op.kind == OpKind::Encode { form: 2 }), "{next:?}");
    for op in next {
        assert_eq!(world.manager.encoded(op.id, 0.001), []);
    }
    assert_eq!(world.manager.rest(9), []);
    assert_eq!(world.open(Some(world.adapter), 0.1).moves, []);
    // Nor does it wait for idle time if it is expected to cost too much.
    let mut world = World::new(20, vec![at_rest(0.2)]);
    assert_eq!(world.manager.rest(9), []);
    world.manager.add_forms(Some(world.adapter), vec![delta()]).expect("lawful");
    let opened = world.open(Some(world.adapter), 0.1);
    assert_eq!(world.close(&opened).len(), 2);
}

#[test]
fn who_wakes_it_in_vain_has_what_comes_before_it() {
    // Taken back, it stays at rest; failed, it is gone with what comes after it.
    for (fails, left) in [(false, 2 * RESTING), (true, RESTING)] {
        let mut world = World::resting();
        let opened = world.open(Some(world.adapter), 0.1);
        world.manager.done(opened.moves[0].id);
        let last = opened.moves[1].id;
        let moves = if fails { world.manager.failed(last) } else { world.manager.cancelled(last) };
        assert_eq!(moves, []);
        world.manager.check().expect("sound");
        assert_eq!(world.manager.tokens(opened.sequence), Ok(CHUNK_TOKENS));
        assert_eq!(world.manager.is_ready(opened.sequence), Ok(true));
        world.close(&opened);
        assert_eq!(world.bytes_at_rest(), left);
        assert_eq!(world.open(Some(world.adapter), 0.1).moves.len() as u64, left / RESTING);
    }
}

#[test]
fn a_sequence_closed_before_it_has_woken_leaves_it_at_rest() {
    let mut world = World::resting();
    let opened = world.open(Some(world.adapter), 0.1);
    world.close(&opened);
    assert_eq!(world.manager.done(opened.moves[1].id), []);
    assert_eq!(world.manager.cancelled(opened.moves[0].id), []);
    world.manager.check().expect("sound");
    assert_eq!(world.bytes_at_rest(), 2 * RESTING);
    assert_eq!(world.open(Some(world.adapter), 0.1).reused, TEXT.len());
}

#[test]
fn two_calls_wake_it_once() {
    let mut world = World::resting();
    let [first, second] = [(); 2].map(|()| world.open(Some(world.adapter), 0.1));
    assert_eq!((second.reused, second.moves.len()), (TEXT.len(), 0));
    first.moves.iter().for_each(|op| assert_eq!(world.manager.done(op.id), []));
    assert_eq!(world.manager.is_ready(second.sequence), Ok(true));
    world.close(&first);
    // What the other one is cut back to is copied from its pages before they go.
    let copy = world.manager.truncate(second.sequence, CHUNK_TOKENS + 3).expect("room").expect("a copy");
    world.manager.check().expect("sound");
    assert_eq!(world.manager.copied_places(copy.id).len(), LAYERS);
    world.manager.done(copy.id);
    world.close(&second);
    assert_eq!(world.bytes_at_rest(), 2 * RESTING);
}

#[test]
fn without_room_for_its_pages_as_much_is_woken_as_fits() {
    let mut world = World::new(5, vec![at_rest(0.01)]);
    world.rest(0.02);
    // The base's two chunks, what is at rest in a third one's room, and a fourth.
    world.manager.set_budget(0, 4 * pool(1).chunk_bytes() as u64);
    let opened = world.open(Some(world.adapter), 0.1);
    assert_eq!((opened.reused, opened.moves.len()), (CHUNK_TOKENS, 1));
}

#[test]
fn with_memory_it_is_lost_and_who_uses_it_goes_on_with_what_is_computed_again() {
    // Layers that are shared with what is encoded are not computed again in its place.
    for (shared, base, kept) in [
        (0, vec![], CHUNK_TOKENS),
        (1, vec![], CHUNK_TOKENS),
        (0, vec![q8()], CHUNK_TOKENS),
        (1, vec![q8()], 0),
    ] {
        let form = Form { layers: Layers::at_rest(CODEC, shared, LAYERS), ..at_rest(0.01) };
        let mut world = World::sharing(20, shared, base, vec![form]);
        assert_eq!(world.rest(0.02), []);
        let opened = world.open(Some(world.adapter), 0.1);
        world.manager.done(opened.moves[0].id);
        world.manager.lose_memory();
        world.manager.check().expect("sound");
        assert_eq!(world.bytes_at_rest(), 0);
        assert_eq!(world.manager.tokens(opened.sequence), Ok(kept), "the second was not there yet");
        world.manager.regained(opened.sequence).expect("open");
        assert_eq!(world.manager.is_ready(opened.sequence), Ok(true));
        let table = world.manager.page_table(opened.sequence).expect("open");
        let pages = (0..LAYERS).flat_map(|layer| (0..kept / CHUNK_TOKENS).map(move |chunk| (layer, chunk)));
        for (layer, chunk) in pages {
            let entry = table.entry(layer, chunk).expect("kept");
            assert_eq!(
                [entry.k.codec, entry.v.codec],
                [PageElement::F16.into(); 2],
                "a pass computes no other"
            );
        }
        world.close(&opened);
    }
}

#[test]
fn what_cannot_be_told_to_cost_little_does_not_go_to_rest() {
    let mut world = World::new(20, vec![at_rest(0.01)]);
    assert_eq!(world.rest(f32::NAN), []);
    assert_eq!(world.bytes_at_rest(), 0);
    assert_eq!(world.manager.rest(9), [], "nor is that tried again");
}

#[test]
fn its_bytes_lie_where_its_adapter_has_layers() {
    for (first, rank, expected) in [
        (0, 64, vec![192; 3]),
        (1, 64, vec![0, 288, 288]),
        (2, 64, vec![0, 0, 576]),
        (0, 21, vec![80, 64, 64]),
    ] {
        let codec = JointCodec { rank, ..CODEC };
        let layers = Layers::at_rest(codec, first, LAYERS);
        let bytes: Vec<u64> = (0..LAYERS).map(|layer| layers.bytes(layer)).collect();
        assert_eq!(bytes, expected);
        assert!(bytes.iter().all(|bytes| bytes.is_multiple_of(PAGE_UNIT as u64)));
        assert!(layers.sum(0..LAYERS) >= codec.chunk_bytes() as u64);
    }
}

#[test]
fn forms_at_rest_that_cannot_be_are_refused() {
    let world = World::new(20, Vec::new());
    let small = JointCodec { rank: 8, ..CODEC };
    let Layers::AtRest { bytes, .. } = Layers::at_rest(small, 0, LAYERS) else { panic!("at rest") };
    let config = world.manager.config().clone();
    let tiers = vec![config.tiers[0], TierConfig { striped: false, chunks: 9 }];
    for (what, form, config) in [
        ("alone", Form { over: Over::Nothing, ..at_rest(0.1) }, config.clone()),
        ("over an adapter's", Form { over: Over::Any, ..at_rest(0.1) }, config.clone()),
        ("by density", Form { by_density: true, ..at_rest(0.1) }, config.clone()),
        (
            "too short",
            Form { layers: Layers::AtRest { codec: CODEC, bytes }, ..at_rest(0.1) },
            config.clone(),
        ),
        ("above a tier", at_rest(0.1), Config { tiers, ..config.clone() }),
    ] {
        let refused = Manager::new(Config { forms: vec![form], ..config });
        assert!(
            matches!(refused, Err(KvError::Config { field: "layers of a form", .. })),
            "{what}: {refused:?}"
        );
    }
}
