//! Bytes by kind, for reports.

use std::collections::BTreeMap;

use interleaf_runtime::{Engine, MemoryUse, WeightFormat};
use serde::Serialize;

use crate::table::{bytes, threads};

/// Bytes held, by kind.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryRow {
    /// Base weights.
    pub base: u64,
    /// Adapter factors.
    pub adapters: u64,
    /// The KV pool.
    pub kv: u64,
    /// Of the pool, pages of answers under way.
    pub kv_in_use: u64,
    /// Of the pool, pages kept for prompts that begin alike.
    pub kv_cached: u64,
    /// Of these two, pages of the base that are an adapter's lower layers as well.
    pub kv_shared_layers: u64,
    /// Of these two, pages that are not stored as they were computed, for answers that allow a loss.
    pub kv_encoded: u64,
    /// Of these, chunks at rest.
    pub kv_at_rest: u64,
    /// Of the pages of answers under way, exact keys beside encoded ones.
    pub kv_keys: u64,
    /// Of the pool, adapters' weights, where they share it.
    pub kv_adapters: u64,
    /// The same pages, those that are stored as they were computed included, by codec.
    pub kv_by_codec: BTreeMap<String, u64>,
    /// Beside the pool, what calibrated pages are decoded with.
    pub kv_bases: u64,
    /// Likewise, what the base's pages have been translated with.
    pub kv_maps: u64,
    /// What the cache holds of the pool and of the file on flash, and may hold of each, whole blocks.
    pub kv_held: u64,
    /// See above.
    pub kv_budget: u64,
    /// See above; 0 where there is no file.
    pub flash_held: u64,
    /// See above.
    pub flash_budget: u64,
    pub kv_on_its_way: u64,
    /// Activations and scratch.
    pub activations: u64,
}

impl MemoryRow {
    /// What an engine holds now.
    pub fn of(engine: &Engine) -> Self {
        let MemoryUse {
            backend,
            kv_in_use,
            kv_cached,
            kv_shared_layers,
            kv_encoded,
            kv_at_rest,
            kv_keys,
            kv_adapters,
            kv_bases,
            kv_maps,
            kv_memory,
            kv_flash,
            kv_on_its_way,
        } = engine.memory();
        Self {
            base: backend.base,
            adapters: backend.adapters,
            kv: backend.kv,
            kv_in_use,
            kv_cached,
            kv_shared_layers,
            kv_encoded,
            kv_at_rest,
            kv_keys,
            kv_adapters,
            kv_by_codec: engine.kv_by_codec().into_iter().collect(),
            kv_bases,
            kv_maps,
            kv_held: kv_memory.held,
            kv_budget: kv_memory.budget,
            flash_held: kv_flash.held,
            flash_budget: kv_flash.budget,
            kv_on_its_way,
            activations: backend.activations,
        }
    }

    /// One line.
    pub fn line(&self) -> String {
        // Where everything is stored as it was computed there is nothing to tell.
        let codecs = self.kv_by_codec.iter().filter(|_| self.kv_encoded > 0);
        let codecs: Vec<String> = codecs.map(|(codec, held)| format!("{codec} {}", bytes(*held))).collect();
        let by_codec = if codecs.is_empty() { String::new() } else { format!(": {}", codecs.join(", ")) };
        let keys = match self.kv_keys {
            0 => String::new(),
            held => format!(", {} of exact keys beside these", bytes(held)),
        };
        let bases = match self.kv_bases {
            0 => String::new(),
            held => format!(" and {} of bases", bytes(held)),
        };
        let maps = match self.kv_maps {
            0 => String::new(),
            held => format!(" and {} of maps", bytes(held)),
        };
        format!(
            "memory: base {}, adapters {}, KV pool {} ({} in use, {} cached, {} of them shared by layers, {} encoded{by_codec}{keys}){bases}{maps}, activations {}",
            bytes(self.base),
            bytes(self.adapters),
            bytes(self.kv),
            bytes(self.kv_in_use),
            bytes(self.kv_cached),
            bytes(self.kv_shared_layers),
            bytes(self.kv_encoded),
            bytes(self.activations)
        )
    }
}

/// `cpu (portable loops, x86_64, 2 threads)`, with the numerics where weights are quantised.
pub fn backend_line(engine: &Engine) -> String {
    let info = engine.backend();
    let quantised = matches!(engine.weights(), WeightFormat::Q8_0 | WeightFormat::Q4_0);
    let numerics = if quantised { format!(", {}", info.numerics.name()) } else { String::new() };
    format!("{} ({}, {}{numerics})", info.name, info.device, threads(info.threads))
}
