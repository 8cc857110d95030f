//! What Gemma 2 and Gemma 3 have in common: four norms a layer, all of them multiplying by `1 + weight`;
//! scaled embeddings; an attention scale of its own; GELU by tanh; layers with windows.

use interleaf_contract::Activation;

use super::Names;
use super::fields::{self, Defaults};
use crate::json::Object;
use crate::rope::RopeRules;
use crate::{Biases, LayerKind, ModelConfig, ModelError};

pub(super) const NAMES: Names = Names {
    mlp_norm: "pre_feedforward_layernorm",
    attention_out_norm: Some("post_attention_layernorm"),
    mlp_out_norm: Some("post_feedforward_layernorm"),
    ..super::NAMES
};

/// Where the configs of both are silent; the ropes and windows are each one's own.
pub(super) const fn defaults(
    family: &'static str,
    rope: RopeRules,
    layer_kinds: fn(&Object, usize) -> Result<Vec<LayerKind>, ModelError>,
) -> Defaults {
    let activation = ("hidden_activation", Activation::GeluTanh);
    Defaults { family, head_dim: Some(256), activation, tied_head: true, rope, layer_kinds }
}

/// Reads a config of either. The softcaps of attention and logits are those given where the config does
/// not name the field; null turns them off.
pub(super) fn read(
    config: &Object,
    defaults: &Defaults,
    softcaps: [Option<f32>; 2],
) -> Result<ModelConfig, ModelError> {
    const QUERY_SCALAR: f64 = 256.0;
    let bidirectional = "use_bidirectional_attention";
    if config.get(bidirectional).is_some_and(|value| value != false) {
        return Err(config.unsupported(bidirectional, "false"));
    }
    let base = fields::read(config, defaults)?;
    let attention = config.boolean("attention_bias")?.unwrap_or(false);
    let scalar = config.optional_positive("query_pre_attn_scalar")?.unwrap_or(QUERY_SCALAR);
    Ok(ModelConfig {
        attention_scale: scalar.sqrt().recip() as f32,
        attention_softcap: softcap(config, "attn_logit_softcapping", softcaps[0])?,
        logit_softcap: softcap(config, "final_logit_softcapping", softcaps[1])?,
        embedding_scale: (base.hidden_size as f64).sqrt() as f32,
        post_norms: true,
        biases: Biases { qkv: attention, o: attention, mlp: false },
        ..base
    })
}

fn softcap(config: &Object, field: &str, default: Option<f32>) -> Result<Option<f32>, ModelError> {
    if !config.has(field) {
        return Ok(default);
    }
    Ok(config.optional_positive(field)?.map(|cap| cap as f32))
}
