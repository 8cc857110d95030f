//! Exact keys beside encoded ones: who reads them, what they take, and that nothing is taken for them.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use interleaf_contract::{
    Bits, CHUNK_TOKENS, Coefficients, ConstantsId, PAGE_UNIT, PageCodec, PageElement, PageHalf, PageTable,
    PoolGeometry,
};
use interleaf_kv::policy::Policy;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, Config, ContentDigest, Form, KeySet, KvError, LayerForm,
    Layers, Manager, Op, OpKind, Open, Opened, Over, PageForm, SequenceId, TrimLevel,
};

const LAYERS: usize = 3;

const DELTA: PageCodec = PageCodec::Delta(Bits::Four);

const LOW_RANK: PageCodec =
    PageCodec::LowRank { rank: 16, coefficients: Coefficients::Codes(Bits::Four), keeps_first: false };

const CHUNKS: usize = 4;

const TEXT: [u32; CHUNKS * CHUNK_TOKENS] = [5; CHUNKS * CHUNK_TOKENS];

const BUDGET: f32 = 0.1;

fn pool(slots: usize) -> PoolGeometry {
    PoolGeometry { layers: LAYERS, kv_heads: 1, head_dim: 64, slots, element: PageElement::F16 }
}

fn stored(half: PageHalf, codec: PageCodec) -> PageForm {
    let constants = (codec.constant_rows() > 0).then_some(ConstantsId(0));
    PageForm::stored(&pool(1), half, codec, constants)
}

/// Keys in a codec by layer, and values all in one.
fn form(keys: [PageForm; LAYERS], values: PageCodec, over: Over) -> Form {
    let layers = Layers::Coded(keys.map(|k| LayerForm { k, v: stored(PageHalf::V, values) }).into());
    Form { layers, bits: 4, drift: 0.001, over, by_density: false }
}

/// Differences from the base's pages; in the last layer keys are the base's.
fn delta() -> Form {
    let k = stored(PageHalf::K, DELTA);
    form([k, k, PageForm::Same], DELTA, Over::Base)
}

/// The same, but that a layer's keys are in few coefficients.
fn mixed() -> Form {
    let [k, dear] = [DELTA, LOW_RANK].map(|codec| stored(PageHalf::K, codec));
    form([k, dear, PageForm::Same], DELTA, Over::Base)
}

/// Bytes of a layer's exact keys.
fn keys() -> u64 {
    pool(1).page_bytes() as u64
}

struct World {
    manager: Manager,
    app: AppId,
    adapters: Vec<AdapterId>,
}

impl World {
    /// The base's chunks are there, and an adapter's over them.
    fn new(slots: usize) -> Self {
        Self::of(slots, &[], &[delta()])
    }

    /// The same in some forms, the base's and each adapter's.
    fn of(slots: usize, base: &[Form], forms: &[Form]) -> Self {
        let config = Config { policy: Policy::Lru, ..Config::in_memory(&pool(slots), 1024) };
        let mut manager = Manager::new(config).expect("lawful");
        let app = manager.open_app(None).expect("the first");
        manager.add_forms(None, base.to_vec()).expect("lawful");
        let add = |(digest, form): (u8, &Form)| {
            let key = AdapterKey { digest: ContentDigest([digest; 32]), scale_bits: 1.0_f32.to_bits() };
            let (translation, rank_rows) = (None, Vec::new());
            let spec = AdapterSpec { key, shared_layers: 0, is_activated: false, translation, rank_rows };
            let adapter = manager.add_adapter(spec).expect("new");
            manager.add_forms(Some(adapter), vec![form.clone()]).expect("lawful");
            adapter
        };
        let adapters: Vec<AdapterId> = (0..).zip(forms).map(add).collect();
        let mut world = Self { manager, app, adapters: adapters.clone() };
        for who in std::iter::once(None).chain(adapters.into_iter().map(Some)) {
            let encoded = if who.is_some() || !base.is_empty() { CHUNKS } else { 0 };
            assert_eq!(world.warm(who), encoded);
        }
        world
    }

    /// Somebody answers, and leaves the chunks of the text. Returns how many of them were encoded.
    fn warm(&mut self, who: Option<AdapterId>) -> usize {
        let opened = self.open(who);
        self.grow(opened.sequence, &TEXT[opened.reused..]).expect("room");
        let moves = self.close(opened.sequence);
        moves.iter().for_each(|op| assert_eq!(self.manager.encoded(op.id, 0.002), []));
        self.check();
        moves.len()
    }

    fn open(&mut self, adapter: Option<AdapterId>) -> Opened {
        let adapter = adapter.map(|id| (id, 0));
        let (app, most, now) = (self.app, TEXT.len(), 0.0);
        let open = Open { app, adapter, tokens: &TEXT, most, budget: BUDGET, is_kept: true, now };
        let opened = self.manager.open(&open).expect("it opens");
        self.check();
        opened
    }

    /// A sequence that finds what the first adapter has of the text.
    fn found(&mut self) -> SequenceId {
        self.found_of(0)
    }

    fn found_of(&mut self, adapter: usize) -> SequenceId {
        let opened = self.open(Some(self.adapters[adapter]));
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
        let moves = self.manager.materialise_keys(sequence, KeySet::All).expect("open");
        self.check();
        moves
    }

    /// The same of those alone for which nothing is lost by it.
    fn materialise_apart(&mut self, sequence: SequenceId) -> Vec<Op> {
        let moves = self.manager.materialise_keys(sequence, KeySet::Apart).expect("open");
        self.check();
        self.done(&moves);
        moves
    }

    /// By layer, whether a sequence's keys of all chunks are exact; each layer's are alike.
    fn exact(&self, sequence: SequenceId) -> [bool; LAYERS] {
        std::array::from_fn(|layer| {
            let table = self.table(sequence);
            let mut all =
                table.entries(layer).iter().map(|entry| matches!(entry.k.codec, PageCodec::Exact(_)));
            let first = all.next().expect("a chunk");
            assert!(all.all(|other| other == first), "layer {layer}");
            first
        })
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
    assert_eq!(world.reads(sequence), (1, CHUNKS - 1));
    world.manager.lose_memory();
    world.check();
    assert_eq!(world.manager.usage().keys, 0);
    assert_eq!(world.manager.tokens(sequence), Ok(0), "no forward pass computes encoded pages");
    assert_eq!(world.manager.done(moves[0].id), [], "whatever was on its way comes to nothing");
    world.check();
    world.manager.regained(sequence).expect("open");
    world.close(sequence);
    // What is computed and encoded again is materialised again.
    assert_eq!([None, Some(world.adapters[0])].map(|who| world.warm(who)), [0, CHUNKS]);
    let sequence = world.found();
    let moves = world.materialise(sequence);
    world.done(&moves);
    assert_eq!((moves.len(), world.reads(sequence)), (CHUNKS, (0, CHUNKS)));
    world.close(sequence);
    assert_eq!(world.manager.usage().keys, 0);
}

/// Room that comes after a sequence has found none is of no use to it: it reads what it has read until it asks again.
#[test]
fn nobody_comes_to_read_what_is_made_later_for_others() {
    for some in [false, true] {
        let mut world = World::new(20);
        let [one, other] = [(); 2].map(|()| world.found());
        let held = world.manager.held_bytes(0);
        let room = if some { 3 * pool(1).chunk_bytes() as u64 / 2 } else { 0 };
        world.manager.set_budget(0, held + room);
        let moves = world.materialise(one);
        world.done(&moves);
        let (in_place, materialised) = world.reads(one);
        assert!(in_place > 0 && (materialised > 0) == some, "{in_place}, {materialised}");
        assert_eq!(moves.len(), materialised);
        let table = world.table(one);
        world.manager.set_budget(0, held + 20 * pool(1).chunk_bytes() as u64);
        let moves = world.materialise(other);
        world.done(&moves);
        assert_eq!((moves.len(), world.reads(other)), (in_place, (0, CHUNKS)));
        assert_eq!((world.table(one), world.reads(one)), (table, (in_place, materialised)));
        // What was given up comes back for those who ask alone.
        for bytes in [held, held + 20 * pool(1).chunk_bytes() as u64] {
            world.manager.set_budget(0, bytes);
            world.check();
        }
        assert_eq!((world.reads(other), world.manager.usage().keys), ((CHUNKS, 0), 0));
        let table = world.table(one);
        let moves = world.materialise(other);
        world.done(&moves);
        assert_eq!((world.reads(one), world.reads(other)), ((CHUNKS, 0), (0, CHUNKS)));
        assert_eq!(world.table(one), table);
        world.manager.join_keys(one, KeySet::All).expect("open");
        world.check();
        assert_eq!(world.table(one), world.table(other));
    }
}

/// Rows of several sequences decode an anchor once, as long as all of them read it: what is cheap to decode over it stays.
#[test]
fn keys_over_an_anchor_that_others_read_stay_unless_they_are_dear() {
    let none = [false, false, true];
    let (dear, all) = ([false, true, true], [true; LAYERS]);
    let apart = |world: &World, sequence| world.manager.keys_in_place(sequence, KeySet::Apart).expect("open");
    let mut world = World::of(60, &[], &[mixed(), mixed()]);
    let one = world.found();
    assert_eq!(world.exact(one), none);
    let expected = BTreeMap::from([(DELTA, [CHUNKS; 2]), (LOW_RANK, [CHUNKS; 2])]);
    assert_eq!(apart(&world, one), expected);
    // Alone, or beside others over the same chunks, it takes nothing from anybody.
    let same = world.found();
    assert_eq!(apart(&world, one), expected);
    assert_eq!(world.materialise_apart(one).len(), CHUNKS);
    assert_eq!((world.exact(one), world.exact(same)), (all, none));
    assert_eq!(world.materialise_apart(same), []);
    assert_eq!((world.exact(same), world.reads(same)), (all, (0, CHUNKS)));
    // Another adapter's are over the same chunks of the base.
    let other = world.found_of(1);
    let expected = BTreeMap::from([(DELTA, [CHUNKS, 0]), (LOW_RANK, [CHUNKS; 2])]);
    assert_eq!(apart(&world, other), expected);
    let moves = world.materialise_apart(other);
    assert_eq!(moves.len(), CHUNKS);
    assert!(moves.iter().all(|op| op.bytes == keys()), "one layer's");
    assert_eq!((world.exact(other), world.reads(other)), (dear, (0, CHUNKS)));
    assert_eq!(world.exact(one), all, "until somebody says that they share it");
    world.manager.share_anchors(other).expect("open");
    world.check();
    assert_eq!([one, same, other].map(|sequence| world.exact(sequence)), [dear; 3]);
    // A sequence over the anchors themselves shares them, too.
    [same, other].into_iter().for_each(|sequence| drop(world.close(sequence)));
    let base = world.open(None).sequence;
    world.manager.read_keys_in_place(one).expect("open");
    world.check();
    assert_eq!(world.manager.usage().keys, 0);
    assert_eq!(world.materialise_apart(one).len(), CHUNKS);
    assert_eq!(world.exact(one), dear);
    // Pinned, they are all read, whoever shares them.
    world.manager.read_keys_in_place(one).expect("open");
    let moves = world.materialise(one);
    world.done(&moves);
    assert_eq!(world.exact(one), all);
    [one, base].into_iter().for_each(|sequence| drop(world.close(sequence)));
    assert_eq!(world.manager.usage().keys, 0);
    let unknown = Err(KvError::UnknownSequence(one));
    assert_eq!(world.manager.share_anchors(one), unknown);
    assert_eq!(world.manager.join_keys(one, KeySet::All), unknown);
}

/// Exact keys beside encoded ones stand for nobody's layers but their chunk's, even where others are decoded over that.
#[test]
fn what_is_said_of_shared_layers_counts_no_keys() {
    let eight = PageCodec::Quantised(Bits::Eight);
    let base = form([stored(PageHalf::K, eight); LAYERS], eight, Over::Nothing);
    let mut world = World::of(30, &[base], &[delta()]);
    let sequence = world.open(None).sequence;
    assert_eq!(world.reads(sequence), (CHUNKS, 0));
    let before = world.manager.usage();
    assert!(before.shared_layers > 0, "the base's chunks are read for the adapter's");
    let moves = world.materialise(sequence);
    world.done(&moves);
    let after = world.manager.usage();
    assert_eq!((after.shared_layers, after.invalid), (before.shared_layers, before.invalid));
    assert_eq!(after.in_use, before.in_use + after.keys);
}

#[test]
fn exact_chunks_have_nothing_to_be_materialised() {
    let mut world = World::new(30);
    let opened = world.open(None);
    let before = world.table(opened.sequence);
    assert_eq!(world.materialise(opened.sequence), []);
    assert_eq!((world.table(opened.sequence), world.reads(opened.sequence)), (before, (0, 0)));
    let unknown = SequenceId(999);
    assert_eq!(world.manager.materialise_keys(unknown, KeySet::All), Err(KvError::UnknownSequence(unknown)));
    assert_eq!(world.manager.read_keys_in_place(unknown), Err(KvError::UnknownSequence(unknown)));
}
