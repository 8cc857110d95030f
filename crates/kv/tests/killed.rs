//! What a killed app held goes from memory as soon as it is written, in whatever order that ends, or once it is known that it
//! cannot be.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use interleaf_contract::PageElement;
use interleaf_kv::policy::{AppState, Policy};
use interleaf_kv::{Config, LinearCost, Manager, Open, SwitchCosts, TierConfig};

#[test]
fn chunks_go_that_are_written_before_those_after_them() {
    for (is_first_first, is_full) in [(true, false), (false, false), (true, true), (false, true)] {
        let free = LinearCost { fixed: 0.0, each: 0.0 };
        let tier = |chunks| TierConfig { striped: false, chunks };
        let mut manager = Manager::new(Config {
            forms: Vec::new(),
            layers: 1,
            page_bytes: 1024,
            element: PageElement::F16,
            tiers: vec![tier(8), tier(8)],
            policy: Policy::Lru,
            costs: SwitchCosts { recompute: free, read: free, least_saved: 0.0 },
            can_recompute: false,
            idle_below: 0.0,
            busy_above: 1.0,
            longest_context: 128,
        })
        .unwrap();
        let app = manager.open_app(None).unwrap();
        let tokens: Vec<u32> = (0..60).collect();
        let open =
            Open { app, adapter: None, tokens: &tokens, most: 59, budget: 0.0, is_kept: true, now: 0.0 };
        let id = manager.open(&open).unwrap().sequence;
        manager.append(id, 60).unwrap();
        manager.commit(id, &tokens, 0.0).unwrap();
        let mut writes = manager.close(id, 1.0).unwrap();
        assert_eq!(writes.len(), 4);
        manager.set_app_state(app, AppState::Killed, 2.0).unwrap();
        assert_eq!(manager.held_bytes(0), 4 * 1024, "what is being written stays so long");
        if !is_first_first {
            writes.reverse();
        }
        for op in writes {
            let follow = if is_full { manager.failed(op.id) } else { manager.done(op.id) };
            assert!(follow.is_empty());
            manager.check().unwrap();
        }
        let stored = if is_full { 0 } else { 4 * 1024 };
        assert_eq!((manager.held_bytes(0), manager.held_bytes(1)), (0, stored));
    }
}
