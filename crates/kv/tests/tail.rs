//! What is no whole chunk comes back from storage where that is sooner than to compute its tokens.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use interleaf_contract::PageElement;
use interleaf_kv::policy::Policy;
use interleaf_kv::{AppId, Config, LinearCost, Manager, OpKind, Open, SwitchCosts, TierConfig, TrimLevel};

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

/// Memory for two chunks and storage for eight, where a chunk is computed in a second and read in so many.
fn manager(read: f64) -> Manager {
    let tier = |chunks| TierConfig { striped: false, chunks };
    Manager::new(Config {
        forms: Vec::new(),
        layers: 1,
        page_bytes: 1024,
        element: PageElement::F16,
        tiers: vec![tier(2), tier(8)],
        policy: Policy::Lru,
        costs: SwitchCosts {
            recompute: LinearCost { fixed: 0.0, each: 1.0 },
            read: LinearCost { fixed: read, each: 0.0 },
            least_saved: 0.0,
        },
        can_recompute: true,
        idle_below: 0.0,
        busy_above: 1.0,
        longest_context: 128,
    })
    .unwrap()
}

#[test]
fn it_is_read_for_one_that_goes_on_with_all_of_it() {
    let mut manager = manager(0.5);
    let app = manager.open_app(None).unwrap();
    let rest: Vec<u32> = (0..10).collect();
    serve(&mut manager, app, &rest, 0.0);
    manager.trim(TrimLevel::Warning);
    assert_eq!(manager.held_bytes(0), 0);
    // For a part of it that does not pay.
    let other: Vec<u32> = (0..9).chain([70, 71]).collect();
    assert_eq!(manager.look_up(&open(app, &other, 1.0)), Ok(0));
    let longer: Vec<u32> = (0..14).collect();
    for is_done in [false, true] {
        let opened = manager.open(&open(app, &longer, 1.0)).unwrap();
        assert_eq!((opened.reused, opened.moves.len()), (10, 1));
        let op = opened.moves[0];
        assert!(op.kind == OpKind::Read { from: 1 } && manager.memory_places(op.id).len() == 1);
        assert!(manager.stored_at(op.id).is_some() && manager.append(opened.sequence, 1).is_err());
        let more = if is_done { manager.done(op.id) } else { manager.cancelled(op.id) };
        assert_eq!((more.len(), manager.is_ready(opened.sequence)), (0, Ok(true)));
        assert_eq!(manager.tokens(opened.sequence), Ok(if is_done { 10 } else { 0 }));
        manager.check().unwrap();
        manager.close(opened.sequence, 2.0).unwrap();
        manager.trim(TrimLevel::Warning);
    }
    // What cannot be read is there no more.
    let opened = manager.open(&open(app, &longer, 3.0)).unwrap();
    manager.failed(opened.moves[0].id);
    manager.check().unwrap();
    manager.close(opened.sequence, 3.0).unwrap();
    assert_eq!(manager.look_up(&open(app, &longer, 3.0)), Ok(0));
}

#[test]
fn it_is_computed_where_that_is_sooner() {
    let mut manager = manager(0.7);
    let app = manager.open_app(None).unwrap();
    let [rest, longer]: [Vec<u32>; 2] = [(0..10).collect(), (0..14).collect()];
    serve(&mut manager, app, &rest, 0.0);
    assert_eq!(manager.look_up(&open(app, &longer, 1.0)), Ok(10));
    manager.trim(TrimLevel::Warning);
    assert_eq!(manager.look_up(&open(app, &longer, 1.0)), Ok(0));
}
