//! A bound on all that an engine holds, looked at before anything is allocated: what cannot fit is refused by name and number, and not
//! found out by the system ending the app.

use interleaf_contract::{CHUNK_TOKENS, MemoryReport};
use interleaf_model::{Model, ModelConfig, WeightFormat};

use crate::reserve::Reservation;
use crate::swap::MOST_UNDER_WAY;
use crate::{Engine, EngineError};

/// Bytes of weights as they would be kept. A backend may lay them out with a little more.
pub fn weight_bytes(model: &Model, format: WeightFormat) -> u64 {
    let used = model.tensors().into_iter().filter(|tensor| tensor.used);
    let bytes = |tensor: &interleaf_model::TensorInfo| match tensor.shape[..] {
        [rows, cols] => {
            let kept = format.row_bytes(cols).map(|bytes| rows as u64 * bytes as u64);
            kept.unwrap_or(tensor.bytes)
        }
        // Norms and biases are kept as f32.
        _ => tensor.elements() * 4,
    };
    used.map(|tensor| bytes(&tensor)).sum()
}

/// Bytes of activations of the largest step: the residual stream and what a layer makes of it, and the logits of one row.
pub fn activation_bytes(config: &ModelConfig, rows: usize) -> u64 {
    let heads = (config.heads + 2 * config.kv_heads + config.heads) * config.head_dim;
    let columns = 3 * config.hidden_size + heads + 2 * config.intermediate_size;
    ((columns * rows + config.vocab_size) * 4) as u64
}

/// Bytes of the pages of a pool.
fn pool_bytes(reserved: &Reservation) -> u64 {
    let geometry = &reserved.geometry;
    (2 * geometry.page_bytes() * geometry.layers) as u64 * geometry.slots as u64
}

/// Refuses what would hold more than a budget.
///
/// # Errors
/// If it would.
pub fn check(what: String, needed: u64, budget: Option<u64>) -> Result<(), EngineError> {
    match budget {
        Some(budget) if needed > budget => Err(EngineError::DoesNotFit { what, needed, budget }),
        _ => Ok(()),
    }
}

impl Engine {
    /// Refuses a pool that there is no room for beside what is held.
    pub(crate) fn check_pool(&self, wanted: &Reservation) -> Result<(), EngineError> {
        let MemoryReport { base, adapters, activations, .. } = self.backend.memory();
        let working = activations.max(activation_bytes(self.config(), self.prefill_rows));
        let pool = pool_bytes(wanted);
        // The factors of adapters that share the pool lie beside it, as many bytes at most as it has.
        let adapters = if self.pool_adapters { pool } else { adapters };
        // What is on its way between the pool and the file below it: no more than there is, and than may be.
        let on_its_way = pool.min(MOST_UNDER_WAY as u64);
        let swapping = if self.swap_options.is_some() { 2 * on_its_way } else { 0 };
        let needed = base + adapters + working + pool + swapping;
        let tokens = wanted.geometry.slots * CHUNK_TOKENS;
        check(format!("a KV pool of {tokens} tokens beside the model"), needed, self.memory_budget)
    }
}

#[cfg(test)]
mod tests {
    use interleaf_demo_model as demo;
    use interleaf_model::Source;

    use super::*;

    #[test]
    fn weights_are_counted_as_they_are_kept() {
        let model = Model::open(Source::Embedded { name: demo::NAME, files: demo::BASE }).unwrap();
        let elements: u64 = model.tensors().iter().filter(|t| t.used).map(|t| t.elements()).sum();
        let stored = weight_bytes(&model, WeightFormat::Stored);
        let halves = weight_bytes(&model, WeightFormat::F16);
        assert!(halves >= 2 * elements && stored == halves, "{stored} {halves}");
        let eighths = weight_bytes(&model, WeightFormat::Q8_0);
        assert!(eighths as f64 / halves as f64 - 34.0 / 64.0 < 0.01, "{eighths}");
        assert!(weight_bytes(&model, WeightFormat::Q4_0) < eighths);
    }
}
