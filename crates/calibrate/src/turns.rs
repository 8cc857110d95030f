//! Turning keys back to what they were before the rotary embedding, and forth, each layer by its own table.

use interleaf_contract::RopeTable;
use interleaf_kernels_ref::rope;
use interleaf_model::ModelConfig;

/// The tables of a model's layers.
#[derive(Debug)]
pub struct Turns {
    by_layer: Vec<Option<usize>>,
    tables: Vec<RopeTable>,
    head_dim: usize,
    positions: Vec<u32>,
}

impl Turns {
    /// For sequences of at most so many tokens.
    pub fn new(config: &ModelConfig, tokens: usize) -> Self {
        Self {
            by_layer: config.layer_kinds.iter().map(|kind| kind.rope).collect(),
            tables: config.ropes.iter().map(|rope| rope.table(tokens)).collect(),
            head_dim: config.head_dim,
            positions: (0..u32::try_from(tokens).unwrap_or(u32::MAX)).collect(),
        }
    }

    /// What a layer's keys are turned by; `None` where they are not.
    pub fn table(&self, layer: usize) -> Option<&RopeTable> {
        self.by_layer[layer].and_then(|rope| self.tables.get(rope))
    }

    /// Turns a layer's keys, tokens × width from position 0 on, as the rotary embedding does.
    pub fn forth(&self, layer: usize, keys: &mut [f32], width: usize) {
        if let Some(table) = self.table(layer) {
            rope::rope(keys, self.head_dim, self.positions(keys, width), table);
        }
    }

    /// Turns them back.
    pub fn back(&self, layer: usize, keys: &mut [f32], width: usize) {
        if let Some(table) = self.table(layer) {
            rope::unrope(keys, self.head_dim, self.positions(keys, width), table);
        }
    }

    fn positions(&self, keys: &[f32], width: usize) -> &[u32] {
        &self.positions[..keys.len().checked_div(width).unwrap_or(0)]
    }
}
