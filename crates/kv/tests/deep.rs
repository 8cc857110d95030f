//! Contexts of a length that no stack of calls would hold: they go like any other.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use interleaf_contract::{CHUNK_TOKENS, PageElement, PoolGeometry};
use interleaf_kv::{AdapterKey, AdapterSpec, Config, ContentDigest, Manager, Open, TierConfig};

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
    let answer = |manager: &mut Manager| {
        let adapter = Some((adapter, 0));
        let open = Open { app, adapter, tokens: &tokens, most: 0, budget: 0.0, is_kept: true, now: 0.0 };
        let opened = manager.open(&open).expect("room");
        manager.append(opened.sequence, tokens.len()).expect("room");
        manager.commit(opened.sequence, &tokens, 0.0).expect("room");
        manager.close(opened.sequence, 0.0).expect("open")
    };
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
