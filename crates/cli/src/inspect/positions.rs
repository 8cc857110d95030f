//! How layers know positions: their rotary embeddings and windows, by kind of layer.

use interleaf_runtime::{ModelConfig, RopeConfig, RopeScaling};
use serde::Serialize;

use super::groups::{group, ranges};

/// Layers of one kind.
#[derive(Debug, Serialize)]
pub struct Kind {
    layers: Vec<usize>,
    /// `null` where queries and keys are not rotated.
    rope: Option<Rope>,
    /// `null` where a token sees all before it.
    window: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Rope {
    theta: f64,
    rotary_dim: usize,
    scaling: Option<Scaling>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Scaling {
    Linear { factor: f64 },
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_positions: f64 },
}

impl From<RopeConfig> for Rope {
    fn from(rope: RopeConfig) -> Self {
        let scaling = match rope.scaling {
            RopeScaling::None => None,
            RopeScaling::Linear { factor } => Some(Scaling::Linear { factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                Some(Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions })
            }
        };
        Self { theta: rope.theta, rotary_dim: rope.rotary_dim, scaling }
    }
}

/// The kinds of layers of a model.
pub fn kinds(config: &ModelConfig) -> Vec<Kind> {
    let layers = group(config.layer_kinds.iter().enumerate().map(|(layer, kind)| (*kind, layer)));
    let kind = |(kind, layers): (interleaf_runtime::LayerKind, Vec<usize>)| {
        let rope = kind.rope.and_then(|rope| config.ropes.get(rope));
        Kind { layers, rope: rope.map(|rope| Rope::from(*rope)), window: kind.window }
    };
    layers.into_iter().map(kind).collect()
}

impl Kind {
    /// One line.
    pub fn line(&self, config: &ModelConfig) -> String {
        let layers = match *self.layers {
            [one] => format!("layer {one}"),
            _ if self.layers.len() == config.layers => "all layers".into(),
            _ => format!("layers {}", ranges(self.layers.iter().copied())),
        };
        let rope = self.rope.as_ref().map_or_else(|| "no rope".into(), |rope| rope.text(config.head_dim));
        let window = self.window.map(|window| format!(", window {window}")).unwrap_or_default();
        format!("{layers}: {rope}{window}")
    }
}

impl Rope {
    fn text(&self, head_dim: usize) -> String {
        let part = if self.rotary_dim == head_dim {
            String::new()
        } else {
            format!(" on {} of {head_dim} dimensions", self.rotary_dim)
        };
        let scaling = match &self.scaling {
            None => String::new(),
            Some(Scaling::Linear { factor }) => format!(", linear ×{factor}"),
            Some(Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions }) => {
                format!(
                    ", llama3 ×{factor} (low {low_freq_factor}, high {high_freq_factor}, \
                     from {original_max_positions} positions)"
                )
            }
        };
        format!("rope theta {}{part}{scaling}", self.theta)
    }
}
