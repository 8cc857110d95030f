//! What is no whole chunk is found in memory alone, and so is dearer to lose than what can be read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use interleaf_contract::PageCodec;
use interleaf_kv::policy::{Elora, Policy};
use interleaf_kv::{AppId, Config, LinearCost, Manager, Open, SwitchCosts, TierConfig};

fn open(app: AppId, tokens: &[u32], now: f64) -> Open<'_> {
    Open { app, adapter: None, tokens, most: tokens.len(), budget: 0.0, is_kept: true, now }
}

fn serve(manager: &mut Manager, app: AppId, tokens: &[u32], now: f64) {
    let id = manager.open(&open(app, tokens, now)).unwrap().sequence;
    manager.append(id, tokens.len()).unwrap();
    manager.commit(id, tokens, 0.0).unwrap();
    for op in manager.close(id, now).unwrap() {
        manager.done(op.id);
    }
}

#[test]
fn a_whole_chunk_goes_before_the_rest_of_a_context() {
    let tier = |chunks| TierConfig { striped: false, chunks };
    let cost = Elora { adapters: false, cost: true, visits: false, recency: false, unit_seconds: 30.0 };
    let mut manager = Manager::new(Config {
        forms: Vec::new(),
        layers: 1,
        page_bytes: 1024,
        codec: PageCodec::F16,
        tiers: vec![tier(2), tier(8)],
        policy: Policy::Elora(cost),
        costs: SwitchCosts {
            recompute: LinearCost { fixed: 0.0, each: 1.0 },
            read: LinearCost { fixed: 0.0, each: 1e-6 },
        },
        can_recompute: true,
        idle_below: 0.0,
        busy_above: 1.0,
        longest_context: 128,
    })
    .unwrap();
    let app = manager.open_app(None).unwrap();
    let [rest, whole, other]: [Vec<u32>; 3] = [(0..10).collect(), (100..116).collect(), (200..216).collect()];
    serve(&mut manager, app, &rest, 0.0);
    serve(&mut manager, app, &whole, 1.0);
    serve(&mut manager, app, &other, 2.0);
    // The rest was used longest ago, and has stayed; the whole chunk is in storage.
    assert_eq!(manager.look_up(&open(app, &rest, 3.0)), Ok(10));
    assert_eq!(manager.look_up(&open(app, &whole, 3.0)), Ok(16));
    assert_eq!(manager.open(&open(app, &whole, 3.0)).unwrap().moves.len(), 1);
}
