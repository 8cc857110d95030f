//! Exact keys beside encoded ones: who reads them, what they take, and that nothing is taken for them.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use interleaf_contract::{
    Bits, CHUNK_TOKENS, PAGE_UNIT, PageCodec, PageElement, PageHalf, PageTable, PoolGeometry,
};
use interleaf_kv::policy::Policy;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, Config, ContentDigest, Form, KvError, LayerForm, Layers,
    Manager, Op, OpKind, Open, Opened, Over, PageForm, SequenceId, TrimLevel,
};

const LAYERS: usize = 3;

const CHUNKS: usize = 4;

const TEXT: [u32; CHUNKS * CHUNK_TOKENS] = [5; CHUNKS * CHUNK_TOKENS];

const BUDGET: f32 = 0.1;

fn pool(slots: usize) -> PoolGeometry {
    PoolGeometry { layers: LAYERS, kv_heads: 1, head_dim: 64, slots, element: PageElement::F16 }
}

/// Differences from the base's pages; in the last layer keys are the base's.
fn delta() -> Form {
    let [k, v] = [PageHalf::K, PageHalf::V]
        .map(|half| PageForm::stored(&pool(1), half, PageCodec::Delta(Bits::Four), None));
    let mut layers = vec![LayerForm { k, v }; LAYERS];
    layers[LAYERS - 1].k = PageForm::Same;
    let layers = Layers::Coded(Arc::from(layers));
    Form { layers, bits: 4, drift: 0.001, over: Over::Base, by_density: false }
}

/// Bytes of a layer's exact keys.
fn keys() -> u64 {
    pool(1).page_bytes() as u64
}

struct World {
    manager: Manager,
    app: AppId,
    adapter: AdapterId,
}

impl World {
    /// The base's chunks are there, and the adapter's over them.
    fn new(slots: usize) -> Self {
        let config = Config { policy: Policy::Lru, ..Config::in_memory(&pool(slots), 1024) };
        let mut manager = Manager::new(config).expect("lawful");
        let app = manager.open_app(None).expect("the first");
        let key = AdapterKey { digest: ContentDigest([3; 32]), scale_bits: 1.0_f32.to_bits() };
        let (translation, rank_rows) = (None, Vec::new());
        let spec = AdapterSpec { key, shared_layers: 0, is_activated: false, translation, rank_rows };
        let adapter = manager.add_adapter(spec).expect("new");
        manager.add_forms(Some(adapter), vec![delta()]).expect("lawful");
        let mut world = Self { manager, app, adapter };
        for who in [None, Some(adapter)] {
            let opened = world.open(who);
            world.grow(opened.sequence, &TEXT[opened.reused..]).expect("room");
            let moves = world.close(opened.sequence);
            assert_eq!(moves.len(), if who.is_some() { CHUNKS } else { 0 });
            moves.iter().for_each(|op| assert_eq!(world.manager.encoded(op.id, 0.002), []));
        }
        world
    }

    fn open(&mut self, adapter: Option<AdapterId>) -> Opened {
        let adapter = adapter.map(|id| (id, 0));
        let (app, most, now) = (self.app, TEXT.len(), 0.0);
        let open = Open { app, adapter, tokens: &TEXT, most, budget: BUDGET, is_kept: true, now };
        let opened = self.manager.open(&open).expect("it opens");
        self.check();
        opened
    }

    /// A sequence that finds what the adapter has of the text.
    fn found(&mut self) -> SequenceId {
        let opened = self.open(Some(self.adapter));
        assert_eq!((opened.reused, opened.moves.len()), (TEXT.len(), 0));
        opened.sequence
    }

    fn grow(&mut self, sequence: SequenceId, tokens: &[u32]) -> Result<(), KvError> {
        let grown = self.manager.append(sequence, tokens.len());
        self.check();
        grown?;
        self.manager.commit(sequence, tokens, 0.0)?;
        self.check();
        Ok(())
    }

    fn close(&mut self, sequence: SequenceId) -> Vec<Op> {
        let moves = self.manager.close(sequence, 0.0).expect("open");
        self.check();
        moves
    }

    fn materialise(&mut self, sequence: SequenceId) -> Vec<Op> {
        let moves = self.manager.materialise_keys(sequence).expect("open");
        self.check();
        moves
    }

    fn done(&mut self, moves: &[Op]) {
        moves.iter().for_each(|op| assert_eq!(self.manager.done(op.id), []));
        self.check();
    }

    fn check(&self) {
        self.manager.check().expect("sound");
    }

    fn table(&self, sequence: SequenceId) -> PageTable {
        self.manager.page_table(sequence).expect("open").clone()
    }

    /// Chunks whose keys are read in place, and materialised.
    fn reads(&self, sequence: SequenceId) -> (usize, usize) {
        self.manager.keys_read(sequence).expect("open")
    }
}

#[test]
fn who_asks_for_exact_keys_reads_them_and_nobody_else_does() {
    let mut world = World::new(30);
    let before = world.manager.usage();
    let [one, other] = [(); 2].map(|()| world.found());
    let in_place = world.table(one);
    assert_eq!((world.reads(one), world.manager.usage().keys), ((CHUNKS, 0), 0));
    let moves = world.materialise(one);
    assert_eq!(moves.len(), CHUNKS);
    assert_eq!(world.table(one), in_place, "nothing waits for it");
    assert_eq!(world.manager.is_ready(one), Ok(true));
    for (chunk, op) in moves.iter().enumerate() {
        assert_eq!((op.kind, op.bytes), (OpKind::Materialise { form: 1 }, 2 * keys()));
        assert!(world.manager.rest_of(op.id).is_none());
        let pages = world.manager.recodes(op.id);
        // The last layer's are the base's, and exact.
        assert_eq!(pages.len(), LAYERS - 1);
        let places = world.manager.memory_places(op.id);
        for (page, (layer, place)) in pages.iter().zip(places) {
            assert_eq!((page.layer as usize, page.half, page.chunk as usize), (layer, PageHalf::K, chunk));
            assert_eq!(Some(page.from), in_place.entry(layer, chunk).map(|entry| entry.k));
            assert_eq!(u64::from(page.to.at) * PAGE_UNIT as u64, place);
            assert_eq!(page.to.codec, PageElement::F16.into());
        }
    }
    let written: Vec<_> = moves.iter().map(|op| world.manager.recodes(op.id)).collect();
    world.done(&moves);
    let table = world.table(one);
    for (chunk, written) in written.iter().enumerate() {
        for layer in 0..LAYERS {
            let [old, new] = [&in_place, &table].map(|table| table.entry(layer, chunk).expect("there"));
            assert_eq!(new.v, old.v, "values are read where they are");
            let own = written.iter().find(|page| page.layer as usize == layer);
            assert_eq!(new.k, own.map_or(old.k, |page| page.to));
        }
    }
    assert_eq!((world.reads(one), world.reads(other)), ((0, CHUNKS), (CHUNKS, 0)));
    assert_eq!(world.table(other), in_place, "its bits do not depend on who reads beside it");
    let held = CHUNKS as u64 * 2 * keys();
    assert_eq!(world.manager.usage().keys, held);
    assert_eq!(world.manager.usage().encoded, before.encoded);
    // The other one needs nothing to be moved for the same.
    assert_eq!(world.materialise(other), []);
    assert_eq!(world.table(other), table);
    world.close(one);
    assert_eq!((world.reads(other), world.manager.usage().keys), ((0, CHUNKS), held));
    world.manager.read_keys_in_place(other).expect("open");
    world.check();
    assert_eq!((world.table(other), world.manager.usage().keys), (in_place, 0));
    world.close(other);
    assert_eq!(world.manager.usage(), before);
}

#[test]
fn they_go_with_the_last_who_asked_for_them() {
    let mut world = World::new(30);
    let [one, other] = [(); 2].map(|()| world.found());
    let moves = world.materialise(one);
    world.done(&moves[..2]);
    world.close(one);
    assert_eq!(world.manager.usage().keys, 2 * 2 * keys(), "two are being written");
    world.done(&moves[2..3]);
    assert_eq!(world.manager.cancelled(moves[3].id), []);
    world.check();
    assert_eq!((world.manager.usage().keys, world.reads(other)), (0, (CHUNKS, 0)));
    // One that could not be read is read where it is.
    let moves = world.materialise(other);
    assert_eq!(world.manager.failed(moves[0].id), []);
    world.done(&moves[1..]);
    assert_eq!(world.reads(other), (1, CHUNKS - 1));
    assert_eq!(world.manager.tokens(other), Ok(TEXT.len()));
    // What it is cut back to is copied from what is stored.
    let copy = world.manager.truncate(other, CHUNK_TOKENS + 3).expect("room").expect("a copy");
    world.check();
    assert!(matches!(world.manager.copied_pages(copy.id)[0].from.codec, PageCodec::Delta(_)));
    world.done(&[copy]);
    assert_eq!(world.reads(other), (1, 0));
}

#[test]
fn only_free_room_becomes_theirs_and_whatever_needs_it_takes_it_back() {
    // What is cached besides may go, but not for them.
    let mut world = World::new(12);
    let opened = world.open(None);
    world.close(opened.sequence);
    let sequence = world.found();
    let in_place = world.table(sequence);
    let held = world.manager.held_bytes(0);
    // Room for no more than some of them.
    world.manager.set_budget(0, held + 3 * pool(1).chunk_bytes() as u64 / 2);
    let (evicted, chunks) = (world.manager.evicted(0), world.manager.chunks());
    let moves = world.materialise(sequence);
    assert!(!moves.is_empty() && moves.len() < CHUNKS, "{moves:?}");
    world.done(&moves);
    assert_eq!((world.manager.evicted(0), world.manager.chunks()), (evicted, chunks));
    let (in_codes, exact) = world.reads(sequence);
    assert_eq!((in_codes, exact), (CHUNKS - moves.len(), moves.len()));
    // The sequence's own next chunk needs the room, and nothing else goes for it.
    world.grow(sequence, &[6; CHUNK_TOKENS]).expect("room");
    assert_eq!(world.manager.evicted(0), evicted);
    let (_, left) = world.reads(sequence);
    assert!(left < exact, "{left} of {exact} are left");
    // The system wants memory back.
    world.manager.trim(TrimLevel::UiHidden);
    world.check();
    assert_eq!((world.reads(sequence), world.manager.usage().keys), ((CHUNKS, 0), 0));
    let table = world.table(sequence);
    for (layer, chunk) in (0..LAYERS).flat_map(|layer| (0..CHUNKS).map(move |chunk| (layer, chunk))) {
        assert_eq!(table.entry(layer, chunk), in_place.entry(layer, chunk));
    }
}

#[test]
fn they_are_lost_with_memory() {
    let mut world = World::new(30);
    let sequence = world.found();
    let moves = world.materialise(sequence);
    world.done(&moves[1..]);
    world.manager.lose_memory();
    world.check();
    assert_eq!(world.manager.usage().keys, 0);
    assert_eq!(world.manager.tokens(sequence), Ok(0), "no forward pass computes encoded pages");
    world.manager.regained(sequence).expect("open");
    assert_eq!(world.materialise(sequence), []);
    world.close(sequence);
}

#[test]
fn exact_chunks_have_nothing_to_be_materialised() {
    let mut world = World::new(30);
    let opened = world.open(None);
    let before = world.table(opened.sequence);
    assert_eq!(world.materialise(opened.sequence), []);
    assert_eq!((world.table(opened.sequence), world.reads(opened.sequence)), (before, (0, 0)));
    let unknown = SequenceId(999);
    assert_eq!(world.manager.materialise_keys(unknown), Err(KvError::UnknownSequence(unknown)));
    assert_eq!(world.manager.read_keys_in_place(unknown), Err(KvError::UnknownSequence(unknown)));
}
