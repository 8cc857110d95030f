//! Bytes by kind, for reports.

use interleaf_runtime::{Engine, MemoryUse, WeightFormat};
use serde::Serialize;

use crate::table::{bytes, threads};

/// Bytes held, by kind.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MemoryRow {
    /// Base weights.
    pub base: u64,
    /// Adapter factors.
    pub adapters: u64,
    /// The KV pool.
    pub kv: u64,
    /// Activations and scratch.
    pub activations: u64,
}

impl MemoryRow {
    /// What an engine holds now.
    pub fn of(engine: &Engine) -> Self {
        let MemoryUse { backend, .. } = engine.memory();
        Self {
            base: backend.base,
            adapters: backend.adapters,
            kv: backend.kv,
            activations: backend.activations,
        }
    }

    /// One line.
    pub fn line(&self) -> String {
        format!(
            "memory: base {}, adapters {}, KV {}, activations {}",
            bytes(self.base),
            bytes(self.adapters),
            bytes(self.kv),
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
