//! What the families' configs have in common, read once. A family changes what is its own.

use interleaf_contract::Activation;
use serde_json::Value;

use crate::config::limits;
use crate::json::Object;
use crate::rope::RopeRules;
use crate::{Biases, LayerKind, ModelConfig, ModelError, RopeConfig};

/// What a family says where its configs are silent.
pub(super) struct Defaults {
    /// As in [`ModelConfig::family`].
    pub family: &'static str,
    /// Elements of a head; `None` for an equal share of the hidden size.
    pub head_dim: Option<usize>,
    /// The field that names the gate's activation, and the activation.
    pub activation: (&'static str, Activation),
    /// Whether the embedding is the output head as well.
    pub tied_head: bool,
    /// The rotary embeddings.
    pub rope: RopeRules,
    /// Reads what each of so many layers' attention is like.
    pub layer_kinds: fn(&Object, usize) -> Result<Vec<LayerKind>, ModelError>,
}

/// Reads the sizes and options that all families spell alike. There are no biases, no softcaps and no
/// norms but those before attention and MLP.
///
/// Where `num_key_value_heads` is absent there are as many as query heads, as in the older configs; a
/// family whose class assumes another number is caught by the shapes of its tensors.
pub(super) fn read(config: &Object, defaults: &Defaults) -> Result<ModelConfig, ModelError> {
    if config.get("quantization_config").is_some() {
        return Err(config.unsupported("quantization_config", "weights in F32, F16 or BF16"));
    }
    let hidden_size = config.size("hidden_size", limits::WIDTH)?;
    let heads = config.size("num_attention_heads", limits::COUNT)?;
    let kv_heads = config.optional_size("num_key_value_heads", limits::COUNT)?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(config.error("num_key_value_heads", format!("a divisor of num_attention_heads, {heads}")));
    }
    let head_dim = match config.optional_size("head_dim", limits::HEAD)?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let expected = format!("a multiple of num_attention_heads, {heads}, where there is no head_dim");
            return Err(config.error("hidden_size", expected));
        }
    };
    let layers = config.size("num_hidden_layers", limits::COUNT)?;
    Ok(ModelConfig {
        family: defaults.family,
        vocab_size: config.size("vocab_size", limits::LONG)?,
        hidden_size,
        intermediate_size: config.size("intermediate_size", limits::WIDTH)?,
        layers,
        heads,
        kv_heads,
        head_dim,
        norm_epsilon: config.positive("rms_norm_eps")? as f32,
        activation: activation(config, defaults.activation)?,
        attention_scale: (head_dim as f64).sqrt().recip() as f32,
        attention_softcap: None,
        logit_softcap: None,
        embedding_scale: 1.0,
        tied_head: config.boolean("tie_word_embeddings")?.unwrap_or(defaults.tied_head),
        max_positions: config.size("max_position_embeddings", limits::LONG)?,
        ropes: RopeConfig::read(config, head_dim, defaults.rope)?,
        layer_kinds: (defaults.layer_kinds)(config, layers)?,
        head_norms: false,
        post_norms: false,
        biases: Biases::default(),
        bos: config.integer("bos_token_id")?,
        eos: config.token_ids("eos_token_id")?.unwrap_or_default(),
    })
}

/// Layers that rotate by the first rope and attend to everything before them, and cannot do otherwise.
pub(super) fn full_attention(config: &Object, layers: usize) -> Result<Vec<LayerKind>, ModelError> {
    Ok(with_first_rope(windows(config, layers, false, |_| false)?))
}

/// Layers that rotate by the first rope and have windows where `use_sliding_window` is true: those that
/// `layer_types` names or else those from `max_window_layers` on.
pub(super) fn optional_windows(config: &Object, layers: usize) -> Result<Vec<LayerKind>, ModelError> {
    /// `max_window_layers` of Qwen2 and Qwen3 where it is absent.
    const FULL_LAYERS: u32 = 28;
    let full = config.integer("max_window_layers")?.unwrap_or(FULL_LAYERS) as usize;
    let enabled = config.boolean("use_sliding_window")?.unwrap_or(false);
    Ok(with_first_rope(windows(config, layers, enabled, |layer| layer >= full)?))
}

/// Layers of these windows that rotate by the first rope.
pub(super) fn with_first_rope(windows: Vec<Option<usize>>) -> Vec<LayerKind> {
    windows.into_iter().map(|window| LayerKind { rope: Some(0), window }).collect()
}

/// Each layer's window: `sliding_window` where `layer_types` says so or, where there is no such list,
/// where `by_default` does. None at all unless `enabled`, and then the list must agree.
pub(super) fn windows(
    config: &Object,
    layers: usize,
    enabled: bool,
    by_default: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    let sliding = match layer_types(config, layers)? {
        Some(sliding) => sliding,
        None => (0..layers).map(|layer| enabled && by_default(layer)).collect(),
    };
    if !sliding.contains(&true) {
        return Ok(vec![None; layers]);
    }
    if !enabled {
        return Err(config.unsupported("layer_types", "full_attention, since no sliding window is in use"));
    }
    let window = config.size("sliding_window", limits::LONG)?;
    Ok(sliding.into_iter().map(|slides| slides.then_some(window)).collect())
}

/// Whether each layer slides, by `layer_types`.
fn layer_types(config: &Object, layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
    let field = "layer_types";
    let Some(types) = config.list(field)? else { return Ok(None) };
    if types.len() != layers {
        let expected = format!("one for each of {layers} layers (here {})", types.len());
        return Err(config.error(field, expected));
    }
    let slides = |value: &Value| match value.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    let types: Option<Vec<bool>> = types.iter().map(slides).collect();
    types.map(Some).ok_or_else(|| config.unsupported(field, "full_attention, sliding_attention"))
}

/// The gate's activation, by its name in transformers.
fn activation(config: &Object, (field, default): (&str, Activation)) -> Result<Activation, ModelError> {
    match config.string(field)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some(_) => Err(config.unsupported(field, "silu, gelu_pytorch_tanh")),
    }
}
