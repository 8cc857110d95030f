//! What is held, by kind: in one line while somebody waits, and in rows.

use interleaf_runtime::{MemoryUse, ServiceStats};

use crate::table::bytes;

/// The pool by kind, then what is held beside it.
pub fn rows(held: &MemoryUse) -> Vec<(&'static str, String)> {
    let MemoryUse { backend, kv_in_use, kv_cached, .. } = *held;
    let rows = [
        ("KV pool", backend.kv),
        ("  in use", kv_in_use),
        ("  cached", kv_cached),
        ("  free", free(held)),
        ("of what is in use or cached", kv_in_use + kv_cached),
        ("  shared layers", held.kv_shared_layers),
        ("  encoded", held.kv_encoded),
        ("  at rest", held.kv_at_rest),
        ("  exact keys", held.kv_keys),
        ("bases", held.kv_bases),
        ("maps", held.kv_maps),
        ("adapters", backend.adapters),
        ("base weights", backend.base),
        ("activations", backend.activations),
    ];
    rows.into_iter().map(|(kind, held)| (kind, bytes(held))).collect()
}

/// `pool 3.0 MiB: 1.2 MiB in use, ..., 0.4 MiB free | adapters 2.6 MiB | 2 under way, 1 waiting`.
pub fn status(held: &MemoryUse, stats: &ServiceStats) -> String {
    let kinds = [
        (held.kv_in_use, "in use"),
        (held.kv_cached, "cached"),
        (held.kv_shared_layers, "shared layers"),
        (held.kv_encoded, "encoded"),
        (held.kv_at_rest, "at rest"),
        (free(held), "free"),
    ];
    let kinds: Vec<String> = kinds.iter().map(|(held, kind)| format!("{} {kind}", bytes(*held))).collect();
    format!(
        "pool {}: {} | adapters {} | {} under way, {} waiting",
        bytes(held.backend.kv),
        kinds.join(", "),
        bytes(held.backend.adapters),
        stats.under_way,
        stats.waiting
    )
}

const fn free(held: &MemoryUse) -> u64 {
    held.backend.kv.saturating_sub(held.kv_in_use + held.kv_cached)
}
