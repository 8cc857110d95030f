//! Chunks whose layers are stored in codecs of their own: what kernels are told of them, what encoding them was measured to
//! cost, and anchors that are themselves encoded.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::sync::Arc;

use interleaf_contract::{
    Bits, CHUNK_TOKENS, ConstantsId, PAGE_UNIT, PageCodec, PageElement, PageEntry, PageHalf, PageRecode,
    PoolGeometry,
};
use interleaf_kv::policy::Policy;
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, Config, ContentDigest, Form, KvError, LayerForm, Layers,
    Manager, Op, OpKind, Open, Over, PageForm, SequenceId,
};

const LAYERS: usize = 3;

const POOL: PoolGeometry =
    PoolGeometry { layers: LAYERS, kv_heads: 1, head_dim: 64, slots: 200, element: PageElement::F16 };

const DELTA: PageCodec = PageCodec::Delta(Bits::Four);

const TEXT: [u32; 2 * CHUNK_TOKENS] = [5; 2 * CHUNK_TOKENS];

fn stored(half: PageHalf, codec: PageCodec) -> PageForm {
    let constants = (codec.constant_rows() > 0).then_some(ConstantsId(7));
    PageForm::stored(&POOL, half, codec, constants)
}

fn layer(k: PageCodec, v: PageCodec) -> LayerForm {
    LayerForm { k: stored(PageHalf::K, k), v: stored(PageHalf::V, v) }
}

fn form(layers: Vec<LayerForm>, drift: f32, over: Over) -> Form {
    Form { layers: Layers::Coded(Arc::from(layers)), bits: 4, drift, over, by_density: false }
}

/// Everything over the base's pages: the first layer's as they are, K of the second too, the rest as differences.
fn over_base() -> Form {
    let same = LayerForm { k: PageForm::Same, v: PageForm::Same };
    let k_same = LayerForm { k: PageForm::Same, v: stored(PageHalf::V, DELTA) };
    form(vec![same, k_same, layer(DELTA, DELTA)], 0.01, Over::Base)
}

fn alone() -> Form {
    let codec = PageCodec::Quantised(Bits::Eight);
    form(vec![layer(codec, codec); LAYERS], 0.001, Over::Nothing)
}

struct World {
    manager: Manager,
    app: AppId,
    now: f64,
}

impl World {
    fn new(forms: Vec<Form>) -> Self {
        let config = Config { policy: Policy::Lru, forms, ..Config::in_memory(&POOL, 1024) };
        let mut manager = Manager::new(config).expect("lawful");
        let app = manager.open_app(None).expect("the first");
        Self { manager, app, now: 0.0 }
    }

    fn adapter(&mut self, forms: Vec<Form>) -> AdapterId {
        self.adapter_above(0, forms)
    }

    /// One whose lower layers are the base's.
    fn adapter_above(&mut self, shared_layers: usize, forms: Vec<Form>) -> AdapterId {
        let key = AdapterKey { digest: ContentDigest([3; 32]), scale_bits: 1.0_f32.to_bits() };
        let (translation, rank_rows) = (None, Vec::new());
        let spec = AdapterSpec { key, shared_layers, is_activated: false, translation, rank_rows };
        let id = self.manager.add_adapter(spec).expect("new");
        self.manager.add_forms(Some(id), forms).expect("lawful");
        id
    }

    fn open(&mut self, adapter: Option<AdapterId>, budget: f32) -> (SequenceId, usize) {
        self.now += 1.0;
        let adapter = adapter.map(|id| (id, 0));
        let (app, most, now) = (self.app, TEXT.len(), self.now);
        let open = Open { app, adapter, tokens: &TEXT, most, budget, is_kept: true, now };
        let opened = self.manager.open(&open).expect("it opens");
        (opened.sequence, opened.reused)
    }

    /// Computes what is not there, and returns what closing wants moved.
    fn answer(&mut self, adapter: Option<AdapterId>, budget: f32) -> Vec<Op> {
        let (sequence, reused) = self.open(adapter, budget);
        self.manager.append(sequence, TEXT.len() - reused).expect("room");
        self.manager.commit(sequence, &TEXT[reused..], 0.0).expect("room");
        self.close(sequence)
    }

    fn close(&mut self, sequence: SequenceId) -> Vec<Op> {
        let moves = self.manager.close(sequence, self.now).expect("open");
        self.manager.check().expect("sound");
        moves
    }

    /// Encodes, at a cost.
    fn encode(&mut self, moves: &[Op], drift: f32) {
        assert_eq!(moves.len(), TEXT.len() / CHUNK_TOKENS, "{moves:?}");
        for op in moves {
            assert!(matches!(op.kind, OpKind::Encode { .. }), "{op:?}");
            assert_eq!(self.manager.encoded(op.id, drift), []);
            self.manager.check().expect("sound");
        }
    }

    /// Encodes what is asked for until nothing is, at a cost that nobody allows. Returns the forms.
    fn refuse(&mut self, moves: Vec<Op>) -> Vec<u8> {
        let (mut left, mut forms) = (VecDeque::from(moves), Vec::new());
        while let Some(op) = left.pop_front() {
            let OpKind::Encode { form } = op.kind else { panic!("{op:?}") };
            forms.push(form);
            left.extend(self.manager.encoded(op.id, 0.5));
            self.manager.check().expect("sound");
        }
        forms
    }

    /// The entries of the second chunk by layer, K before V, for a call that finds all of it.
    fn entries(&mut self, adapter: Option<AdapterId>, budget: f32) -> Vec<[PageEntry; 2]> {
        let (sequence, reused) = self.open(adapter, budget);
        assert_eq!(reused, TEXT.len());
        let table = self.manager.page_table(sequence).expect("open").clone();
        self.close(sequence);
        (0..LAYERS)
            .map(|layer| table.entry(layer, 1).expect("there"))
            .map(|entry| [entry.k, entry.v])
            .collect()
    }
}

fn units(half: PageHalf, codec: PageCodec) -> u32 {
    (POOL.coded_bytes(codec, half) / PAGE_UNIT) as u32
}

#[test]
fn each_layer_is_read_in_its_own_codecs_over_the_bases_pages() {
    let mut world = World::new(Vec::new());
    let adapter = world.adapter(vec![over_base()]);
    assert_eq!(world.answer(None, 0.1), [], "the base has no form");
    let base = world.entries(None, 0.0);
    let moves = world.answer(Some(adapter), 0.1);
    world.encode(&moves, 0.02);
    let found = world.entries(Some(adapter), 0.1);
    assert_eq!(found[0], base[0], "the same");
    assert_eq!(found[1][0], base[1][0], "the same");
    for (found, base) in [(found[1][1], base[1][1]), (found[2][0], base[2][0]), (found[2][1], base[2][1])] {
        assert_eq!((found.codec, found.anchor, found.constants), (DELTA, Some(base.place()), None));
    }
    assert_eq!(found[2][1].at, found[2][0].at + units(PageHalf::K, DELTA), "V lies behind K");
    // Of the second layer V alone takes room, of the first nothing does: three blocks beside the base's six.
    assert_eq!(world.manager.held_bytes(0), 9 * 2 * POOL.page_bytes() as u64);
    // Whoever allows less than it cost finds nothing.
    assert_eq!(world.open(Some(adapter), 0.015).1, 0);
}

#[test]
fn what_encoding_was_measured_to_cost_decides_whether_it_is_kept() {
    for (cost, kept) in [(0.05, true), (0.2, false)] {
        let mut world = World::new(Vec::new());
        let adapter = world.adapter(vec![over_base()]);
        world.answer(None, 0.1);
        let moves = world.answer(Some(adapter), 0.1);
        world.encode(&moves, cost);
        let found = world.entries(Some(adapter), 0.1);
        assert_eq!(found[2][0].codec == DELTA, kept, "at a cost of {cost}");
        let (_, reused) = world.open(Some(adapter), 0.0);
        assert_eq!(reused > 0, !kept, "an exact call, at a cost of {cost}");
    }
}

/// What costs too much is not encoded again at the end of every call, but where there is something new to try.
#[test]
fn what_was_refused_is_not_tried_again() {
    let mut world = World::new(vec![alone()]);
    let adapter = world.adapter(vec![over_base()]);
    // Alone, since there is nothing to be encoded over.
    let moves = world.answer(Some(adapter), 0.1);
    assert_eq!(world.refuse(moves), [1, 1]);
    assert_eq!(world.answer(Some(adapter), 0.1), []);
    // Over the base's pages once they are there.
    let moves = world.answer(None, 0.0);
    let tried = world.refuse(moves);
    assert_eq!(tried[..2], [2, 2], "{tried:?}");
    for who in [None, Some(adapter)] {
        assert_eq!(world.answer(who, 0.1), [], "{who:?}");
    }
    // Forms that are told of now were not tried.
    world.manager.add_forms(Some(adapter), vec![over_base()]).expect("lawful");
    assert_eq!(world.answer(Some(adapter), 0.1).len(), 2);
}

/// Nor are the base's pages wanted for what they are known to be of no use for.
#[test]
fn the_base_is_not_computed_for_what_was_refused() {
    let same = LayerForm { k: PageForm::Same, v: PageForm::Same };
    let mut world = World::new(vec![alone()]);
    let adapter = world.adapter(vec![form(vec![same; LAYERS], 0.01, Over::Base)]);
    let moves = world.answer(Some(adapter), 0.1);
    world.refuse(moves);
    assert_eq!(world.manager.lacking_base(), Some((TEXT.to_vec(), 0.1)));
    let moves = world.answer(None, 0.1);
    let over: Vec<Op> = moves.iter().flat_map(|op| world.manager.encoded(op.id, 0.001)).collect();
    assert_eq!(world.refuse(over)[..2], [2, 2]);
    let call = |adapter: Option<AdapterId>| Open {
        app: world.app,
        adapter: adapter.map(|id| (id, 0)),
        tokens: &TEXT,
        most: TEXT.len(),
        budget: 0.1,
        is_kept: true,
        now: world.now,
    };
    world.manager.forget(&call(None)).expect("known");
    assert_eq!(world.manager.look_up(&call(None)), Ok(0));
    assert_eq!(world.manager.look_up(&call(Some(adapter))), Ok(TEXT.len()));
    assert_eq!(world.manager.lacking_base(), None);
}

/// What is there twice, exact for one caller and encoded alone for another, follows the base in both forms as far as each may.
#[test]
fn a_lossy_chunk_is_encoded_over_the_base_beside_an_exact_one() {
    let mut world = World::new(vec![alone()]);
    let adapter = world.adapter(vec![over_base()]);
    let moves = world.answer(Some(adapter), 0.1);
    world.encode(&moves, 0.001);
    assert_eq!(world.answer(Some(adapter), 0.0), []);
    let moves = world.answer(None, 0.0);
    assert!(moves.iter().all(|op| op.kind == OpKind::Encode { form: 2 }));
    world.encode(&moves, 0.02);
    assert_eq!(world.open(Some(adapter), 0.0).1, TEXT.len(), "the exact one stays");
    let by_codec = world.manager.usage_by_codec();
    assert!(!by_codec.contains_key(&PageCodec::Quantised(Bits::Eight)), "{by_codec:?}");
}

/// One place in the tree has one lossy chunk: an exact one beside it is not encoded in vain whenever a call ends. What comes
/// after it is in another place.
#[test]
fn an_exact_chunk_beside_a_lossy_one_stays() {
    let mut world = World::new(vec![alone()]);
    let adapter = world.adapter(vec![]);
    let moves = world.answer(Some(adapter), 0.1);
    world.encode(&moves, 0.05);
    let moves = world.answer(Some(adapter), 0.01);
    assert_eq!(moves.len(), 1, "the second chunk's");
    world.manager.encoded(moves[0].id, 0.001);
    assert_eq!(world.answer(Some(adapter), 0.01), []);
    assert_eq!(world.open(Some(adapter), 0.0).1, CHUNK_TOKENS);
}

#[test]
fn an_anchor_may_be_encoded_itself_and_stays_as_it_is_under_who_follows() {
    let mut world = World::new(vec![alone()]);
    let adapter = world.adapter(vec![over_base()]);
    let moves = world.answer(None, 0.1);
    world.encode(&moves, 0.001);
    let base = world.entries(None, 0.1);
    let codec = PageCodec::Quantised(Bits::Eight);
    assert!(base.iter().flatten().all(|entry| entry.codec == codec && entry.anchor.is_none()), "{base:?}");
    let moves = world.answer(Some(adapter), 0.1);
    world.encode(&moves, 0.02);
    let found = world.entries(Some(adapter), 0.1);
    assert_eq!(found[0], base[0]);
    assert_eq!(found[2][1].anchor, Some(base[2][1].place()));
    // An exact call of the base computes its own; what is decoded over the other one stays.
    assert_eq!(world.answer(None, 0.0), []);
    assert_eq!(world.entries(Some(adapter), 0.1), found);
    assert!(world.entries(None, 0.0).iter().flatten().all(|entry| entry.codec == PageElement::F16.into()));
}

#[test]
fn nothing_is_compared_of_a_chunk_that_is_forgotten_while_it_is_encoded() {
    let mut world = World::new(vec![alone()]);
    let adapter = world.adapter_above(1, vec![over_base()]);
    let moves = world.answer(None, 0.1);
    world.encode(&moves, 0.001);
    let moves = world.answer(Some(adapter), 0.1);
    let (app, most) = (world.app, TEXT.len());
    let adapter = Some((adapter, 0));
    let open = Open { app, adapter, tokens: &TEXT, most, budget: 0.1, is_kept: true, now: 9.0 };
    world.manager.forget(&open).expect("known");
    assert_eq!(moves.len(), TEXT.len() / CHUNK_TOKENS);
    for op in moves {
        assert_eq!((world.manager.recodes(op.id), world.manager.comparisons(op.id)), (vec![], vec![]));
        assert_eq!(world.manager.encoded(op.id, 0.02), []);
        world.manager.check().expect("sound");
    }
}

#[test]
fn shared_layers_are_the_encoded_bases_once_a_chunk_is_decoded_over_that() {
    let mut world = World::new(vec![alone()]);
    let adapter = world.adapter_above(1, vec![over_base()]);
    let moves = world.answer(None, 0.1);
    world.encode(&moves, 0.001);
    let base = world.entries(None, 0.1);
    let moves = world.answer(Some(adapter), 0.1);
    let shared = world.entries(Some(adapter), 0.1)[0];
    assert!(shared.iter().all(|entry| entry.codec == PageElement::F16.into()), "{shared:?}");
    for op in &moves {
        // What it no longer shares exactly counts as lost, though nothing of it is written.
        let (written, compared) = (world.manager.recodes(op.id), world.manager.comparisons(op.id));
        let layers = |pages: &[PageRecode]| pages.iter().map(|page| page.layer).collect::<Vec<_>>();
        assert_eq!((layers(&written), layers(&compared)), (vec![1, 2, 2], vec![0, 0, 1, 1, 2, 2]));
        assert_eq!(
            (compared[0].from.codec, compared[0].to.codec),
            (PageElement::F16.into(), base[0][0].codec)
        );
    }
    world.encode(&moves, 0.02);
    let found = world.entries(Some(adapter), 0.1);
    assert_eq!(found[0], base[0]);
    assert_eq!(found[2][1].anchor, Some(base[2][1].place()));
    // The exact layer that was shared before went with who shared it.
    let by_codec = world.manager.usage_by_codec();
    assert!(!by_codec.contains_key(&PageElement::F16.into()), "{by_codec:?}");
    assert_eq!(by_codec.values().sum::<u64>(), world.manager.usage().cached);
}

#[test]
fn forms_that_cannot_be_are_refused() {
    let mut world = World::new(Vec::new());
    let adapter = world.adapter(Vec::new());
    let same = LayerForm { k: PageForm::Same, v: PageForm::Same };
    let profiled = PageCodec::Profiled(Bits::Four);
    let no_constants = PageForm::stored(&POOL, PageHalf::K, profiled, None);
    let large = PageForm::Stored { codec: DELTA, constants: None, bytes: 1 << 20 };
    for (what, wrong) in [
        ("too few layers", form(vec![same; LAYERS - 1], 0.1, Over::Base)),
        ("an anchor where there is none", form(vec![same; LAYERS], 0.1, Over::Nothing)),
        ("no constants", form(vec![LayerForm { k: no_constants, ..same }; LAYERS], 0.1, Over::Base)),
        (
            "V by a profile of K",
            form(vec![LayerForm { v: stored(PageHalf::K, profiled), ..same }; LAYERS], 0.1, Over::Base),
        ),
        ("larger than exact", form(vec![LayerForm { k: large, ..same }; LAYERS], 0.1, Over::Base)),
        ("nothing lost", form(vec![same; LAYERS], 0.0, Over::Base)),
    ] {
        let refused = world.manager.add_forms(Some(adapter), vec![wrong]);
        assert!(matches!(refused, Err(KvError::Config { .. })), "{what}: {refused:?}");
    }
    let many = vec![over_base(); 100];
    world.manager.add_forms(Some(adapter), many.clone()).expect("few enough");
    assert!(world.manager.add_forms(Some(adapter), many).is_err());
}
