//! Gemma 3, text only: norms on the heads of queries and keys in place of Gemma 2's softcaps; all but
//! every sixth layer have a window and a rope of their own.
//!
//! The checkpoints that see images wrap this one and name its tensors otherwise; they have an architecture
//! of their own, which is not supported.

use super::{Family, fields, gemma};
use crate::config::limits;
use crate::json::Object;
use crate::rope::RopeRules;
use crate::{LayerKind, ModelConfig, ModelError};

pub(super) const GEMMA3: Family =
    Family { architecture: "Gemma3ForCausalLM", read, names: gemma::NAMES, norm_offset: 1.0 };

/// Indices of the ropes, in the order of [`RopeRules::ByLayerType`].
const FULL: usize = 0;
const SLIDING: usize = 1;

fn read(config: &Object) -> Result<ModelConfig, ModelError> {
    let rope = RopeRules::ByLayerType { full_theta: 1_000_000.0, sliding_theta: 10_000.0 };
    let base = gemma::read(config, &gemma::defaults("gemma3", rope, layer_kinds), [None, None])?;
    Ok(ModelConfig { head_norms: true, ..base })
}

fn layer_kinds(config: &Object, layers: usize) -> Result<Vec<LayerKind>, ModelError> {
    const PATTERN: usize = 6;
    let pattern = config.optional_size("sliding_window_pattern", limits::COUNT)?.unwrap_or(PATTERN);
    let windows = fields::windows(config, layers, true, |layer| !(layer + 1).is_multiple_of(pattern))?;
    let kind = |window: Option<usize>| {
        let rope = if window.is_some() { SLIDING } else { FULL };
        LayerKind { rope: Some(rope), window }
    };
    Ok(windows.into_iter().map(kind).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::read_config;
    use crate::fixture::{changed, llama_config};
    use crate::{RopeConfig, RopeScaling};
    use serde_json::{Value, json};

    fn read(changes: Value) -> Result<ModelConfig, ModelError> {
        let gemma3 = json!({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 16, "hidden_act": null,
            "num_hidden_layers": 7, "rope_theta": null});
        read_config(&changed(changed(llama_config(), gemma3), changes))
    }

    fn windows(config: &ModelConfig) -> Vec<Option<usize>> {
        config.layer_kinds.iter().map(|layer| layer.window).collect()
    }

    #[test]
    fn every_sixth_layer_sees_everything() {
        let config = read(json!({})).unwrap();
        let near = Some(16);
        assert_eq!(windows(&config), [near, near, near, near, near, None, near]);
        for layer in &config.layer_kinds {
            assert_eq!(layer.rope, Some(if layer.window.is_some() { SLIDING } else { FULL }));
        }
        let rope = |theta| RopeConfig { theta, rotary_dim: 4, scaling: RopeScaling::None };
        assert_eq!(config.ropes, [rope(1e6), rope(1e4)]);
        assert_eq!((config.attention_softcap, config.logit_softcap), (None, None));
        assert!(config.head_norms && config.post_norms);
    }

    #[test]
    fn both_spellings_say_the_same() {
        let old = json!({"sliding_window_pattern": 3, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
        let types = ["sliding_attention", "sliding_attention", "full_attention"];
        let types: Vec<_> = types.iter().cycle().take(7).collect();
        let new = json!({"layer_types": types, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}});
        assert_eq!(read(old).unwrap(), read(new).unwrap());
    }
}
