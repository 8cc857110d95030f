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
        ("  adapters", held.kv_adapters),
        ("  free", free(held)),
        ("of what is in use or cached", kv_in_use + kv_cached),
        ("  shared layers", held.kv_shared_layers),
        ("  encoded", held.kv_encoded),
        ("  at rest", held.kv_at_rest),
        ("  exact keys", held.kv_keys),
        ("flash", held.kv_flash.held),
        ("  of at most", held.kv_flash.budget),
        ("bases", held.kv_bases),
        ("maps", held.kv_maps),
        ("adapters", backend.adapters),
        ("base weights", backend.base),
        ("activations", backend.activations),
    ];
    rows.into_iter().map(|(kind, held)| (kind, bytes(held))).collect()
}

/// `1 under way, 0 waiting | pool 3.0 MiB: 1.2 MiB in use, 1.4 MiB cached, 0.4 MiB free | adapters 2.6 MiB`, and what else of the
/// pool and on flash there is.
pub fn status(held: &MemoryUse, stats: &ServiceStats) -> String {
    let always = [(held.kv_in_use, "in use"), (held.kv_cached, "cached"), (free(held), "free")];
    let some = [
        (held.kv_shared_layers, "in shared layers"),
        (held.kv_encoded, "encoded"),
        (held.kv_at_rest, "at rest"),
        (held.kv_keys, "of exact keys"),
        (held.kv_adapters, "of adapters"),
    ];
    let kinds = always.into_iter().chain(some.into_iter().filter(|(held, _)| *held > 0));
    let kinds: Vec<String> = kinds.map(|(held, kind)| format!("{} {kind}", bytes(held))).collect();
    let ServiceStats { under_way, waiting, .. } = stats;
    let (pool, adapters) = (bytes(held.backend.kv), bytes(held.backend.adapters));
    let flash = match held.kv_flash.budget {
        0 => String::new(),
        _ => format!(" | flash {}", bytes(held.kv_flash.held)),
    };
    format!(
        "{under_way} under way, {waiting} waiting | pool {pool}: {} | adapters {adapters}{flash}",
        kinds.join(", ")
    )
}

const fn free(held: &MemoryUse) -> u64 {
    held.backend.kv.saturating_sub(held.kv_in_use + held.kv_cached + held.kv_adapters)
}
