//! Memory alone, of so few chunks that a test can count them, where everything takes as long as everything else.

use interleaf_contract::PageElement;
use interleaf_kv::policy::Policy;
use interleaf_kv::{Config, Form, LinearCost, SwitchCosts, TierConfig};

/// Bytes of a page.
pub const PAGE: u64 = 1024;

/// A cache of so many layers and chunks.
pub fn config(layers: usize, chunks: u32, policy: Policy, forms: Vec<Form>) -> Config {
    let line = LinearCost { fixed: 0.0, each: 1e-6 };
    Config {
        layers,
        page_bytes: PAGE,
        element: PageElement::F16,
        tiers: vec![TierConfig { striped: true, chunks }],
        policy,
        costs: SwitchCosts { recompute: line, read: line, least_saved: 0.0 },
        can_recompute: false,
        forms,
        idle_below: 0.7,
        busy_above: 0.9,
        longest_context: 1024,
    }
}
