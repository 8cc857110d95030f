//! Contexts of a length that no stack of calls would hold: they go like any other.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use interleaf_contract::{CHUNK_TOKENS, PageElement, PoolGeometry};
use interleaf_kv::{
    AdapterId, AdapterKey, AdapterSpec, AppId, Config, ContentDigest, Form, Layers, Manager, Op, OpKind,
    Open, Over, TierConfig,
};

const CHUNKS: usize = 100_000;

#[test]
fn a_very_long_context_goes_with_its_adapter_and_from_memory() {
    let geometry =
        PoolGeometry { layers: 1, kv_heads: 1, head_dim: 1, element: PageElement::F16, slots: CHUNKS };
    let mut config = Config::in_memory(&geometry, 1 << 20);
    config.tiers.push(TierConfig { striped: false, chunks: 4 });
    let mut manager = Manager::new(config).expect("lawful");
    let app = manager.open_app(None).expect("the first");
    let key = AdapterKey { digest: ContentDigest([1; 32]), scale_bits: 0 };
    let spec =
        AdapterSpec { key, shared_layers: 0, is_activated: false, translation: None, rank_rows: Vec::new() };
    let adapter = manager.add_adapter(spec).expect("new");
    let tokens: Vec<u32> = (0..(CHUNKS * CHUNK_TOKENS) as u32).collect();
    let answer = |manager: &mut Manager| answer(manager, app, Some(adapter), &tokens, 0.0);
    let moves = answer(&mut manager);
    assert_eq!(manager.chunks(), CHUNKS);
    // Its first chunks are on their way to flash, and all behind them depends on these.
    assert!(!moves.is_empty());
    manager.lose_memory();
    assert_eq!((manager.chunks(), manager.held_bytes(0)), (0, 0));
    for op in answer(&mut manager) {
        manager.done(op.id);
    }
    manager.remove_adapter(adapter).expect("there");
    assert_eq!((manager.chunks(), manager.held_bytes(0)), (0, 0));
}

/// A text that the base reads after an adapter. Twins of all chunks are looked for in one walk, when the call is closed and when
/// its encodings have ended; a walk for each chunk takes a hundred times as long.
#[test]
fn a_very_long_text_is_encoded_over_the_bases_pages_in_one_walk() {
    const CHUNKS: usize = 50_000;
    let slots = 3 * CHUNKS;
    let geometry = PoolGeometry { layers: 1, kv_heads: 1, head_dim: 64, element: PageElement::F16, slots };
    let form = |part: u64, over| {
        let layers = Layers::Alike(2 * geometry.page_bytes() as u64 / part);
        Form { layers, bits: 8, drift: 1e-3, over, by_density: false }
    };
    let forms = vec![form(2, Over::Nothing), form(4, Over::Base)];
    let config = Config { forms, ..Config::in_memory(&geometry, 1 << 20) };
    let tokens: Vec<u32> = (0..(CHUNKS * CHUNK_TOKENS) as u32).collect();
    for budget in [0.0, 0.1] {
        let mut manager = Manager::new(config.clone()).expect("lawful");
        let app = manager.open_app(None).expect("the first");
        let key = AdapterKey { digest: ContentDigest([1; 32]), scale_bits: 0 };
        let (translation, rank_rows) = (None, Vec::new());
        let spec = AdapterSpec { key, shared_layers: 0, is_activated: false, translation, rank_rows };
        let adapter = manager.add_adapter(spec).expect("new");
        for op in answer(&mut manager, app, Some(adapter), &tokens, 0.1) {
            assert_eq!(manager.cancelled(op.id), [], "the adapter's stay as they are, alone");
        }
        let mut over = answer(&mut manager, app, None, &tokens, budget);
        if budget > 0.0 {
            let mut alone = over;
            let last = alone.pop().expect("a chunk");
            for op in alone {
                assert_eq!(manager.encoded(op.id, 1e-3), [], "others are under way");
            }
            over = manager.encoded(last.id, 1e-3);
        }
        assert_eq!(over.len(), CHUNKS);
        assert!(over.iter().all(|op| op.kind == OpKind::Encode { form: 2 }));
        let next: Vec<Op> = over.iter().flat_map(|op| manager.encoded(op.id, 0.5)).collect();
        assert!(next.len() == CHUNKS && next.iter().all(|op| op.kind == OpKind::Encode { form: 1 }));
    }
}

fn answer(
    manager: &mut Manager,
    app: AppId,
    adapter: Option<AdapterId>,
    tokens: &[u32],
    budget: f32,
) -> Vec<Op> {
    let adapter = adapter.map(|id| (id, 0));
    let open = Open { app, adapter, tokens, most: 0, budget, is_kept: true, now: 0.0 };
    let opened = manager.open(&open).expect("room");
    manager.append(opened.sequence, tokens.len()).expect("room");
    manager.commit(opened.sequence, tokens, 0.0).expect("room");
    manager.close(opened.sequence, 0.0).expect("open")
}
