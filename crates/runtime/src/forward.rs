//! The forward pass, written once over the `Backend` trait: it records operations and computes nothing.

use interleaf_contract::{AttentionShape, Op, RopeId, RowSet, Step, Tensor};
use interleaf_model::ModelConfig;

use crate::resident::{Layer, Resident};

/// The kernels that a forward pass and a choice of token need.
pub const STEMS: [&str; 8] =
    ["embed", "rms_norm", "lora_matmul", "rope", "kv_append", "paged_attention", "swiglu", "sample"];

/// Activations that every layer writes anew, so that a step's memory does not grow with depth.
struct Buffers {
    x: Tensor,
    normed: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mixed: Tensor,
    delta: Tensor,
    gate: Tensor,
    up: Tensor,
}

/// Records a whole forward pass over the step's batch. Returns the logits of its output rows, outputs ×
/// vocabulary, or `None` where the batch asks for none and the head is left out.
pub fn record(step: &mut Step, model: &Resident, rope: RopeId, config: &ModelConfig) -> Option<Tensor> {
    let cols = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (hidden, mlp) = (cols(config.hidden_size), cols(config.intermediate_size));
    let q = cols(config.heads * config.head_dim);
    let kv = cols(config.kv_heads * config.head_dim);
    let mut all = |cols| step.tensor(RowSet::All, cols);
    let b = Buffers {
        x: all(hidden),
        normed: all(hidden),
        q: all(q),
        k: all(kv),
        v: all(kv),
        mixed: all(q),
        delta: all(hidden),
        gate: all(mlp),
        up: all(mlp),
    };

    step.push(Op::Embed { table: model.embedding, scale: config.embedding_scale, out: b.x });
    // What the last block left for the residual stream; the next norm takes it in.
    let mut residual = None;
    for (index, layer) in model.layers.iter().enumerate() {
        attention(step, cols(index), layer, rope, config, &b, residual);
        mlp_block(step, layer, config, &b);
        residual = Some(b.delta);
    }
    if step.row_count(RowSet::Outputs) == 0 {
        return None;
    }
    let normed = step.tensor(RowSet::Outputs, hidden);
    let logits = step.tensor(RowSet::Outputs, cols(config.vocab_size));
    step.push(Op::RmsNorm {
        x: b.x,
        add: residual,
        weight: model.final_norm,
        epsilon: config.norm_epsilon,
        heads: 1,
        out: normed,
    });
    step.push(Op::LoraMatmul { x: normed, projections: vec![(model.head, logits)] });
    Some(logits)
}

fn attention(
    step: &mut Step,
    index: u32,
    layer: &Layer,
    rope: RopeId,
    config: &ModelConfig,
    b: &Buffers,
    residual: Option<Tensor>,
) {
    let head_dim = u32::try_from(config.head_dim).unwrap_or(u32::MAX);
    let [q, k, v] = layer.qkv;
    step.push(Op::RmsNorm {
        x: b.x,
        add: residual,
        weight: layer.input_norm,
        epsilon: config.norm_epsilon,
        heads: 1,
        out: b.normed,
    });
    step.push(Op::LoraMatmul { x: b.normed, projections: vec![(q, b.q), (k, b.k), (v, b.v)] });
    step.push(Op::Rope { x: b.q, head_dim, table: rope });
    step.push(Op::Rope { x: b.k, head_dim, table: rope });
    step.push(Op::KvAppend { layer: index, k: b.k, v: b.v });
    let shape = AttentionShape {
        heads: b.q.cols / head_dim,
        kv_heads: b.k.cols / head_dim,
        head_dim,
        scale: config.attention_scale,
    };
    step.push(Op::PagedAttention { layer: index, shape, q: b.q, out: b.mixed });
    step.push(Op::LoraMatmul { x: b.mixed, projections: vec![(layer.o, b.delta)] });
}

fn mlp_block(step: &mut Step, layer: &Layer, config: &ModelConfig, b: &Buffers) {
    let [gate, up] = layer.gate_up;
    step.push(Op::RmsNorm {
        x: b.x,
        add: Some(b.delta),
        weight: layer.post_attention_norm,
        epsilon: config.norm_epsilon,
        heads: 1,
        out: b.normed,
    });
    step.push(Op::LoraMatmul { x: b.normed, projections: vec![(gate, b.gate), (up, b.up)] });
    step.push(Op::SwiGlu { activation: config.activation, gate: b.gate, up: b.up, out: b.gate });
    step.push(Op::LoraMatmul { x: b.gate, projections: vec![(layer.down, b.delta)] });
}
