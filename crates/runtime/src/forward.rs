//! The forward pass, written once over the `Backend` trait: it records operations and computes nothing.
//! Families differ by what their layers have: see `Layer` and `ModelConfig`.

use interleaf_contract::{Arrival, AttentionShape, Op, RopeId, RowSet, Step, Tensor, VectorId};
use interleaf_model::ModelConfig;

use crate::resident::{Layer, Resident};

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

/// What is read back of a pass besides its logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tap<'a> {
    /// Nothing.
    Nothing,
    /// Normed hidden states, ascending: what the attention of a layer is given, and by the number of layers what the head
    /// would be given of every row. Logits are then none.
    Hidden(&'a [usize]),
}

impl Tap<'_> {
    fn has(self, layer: usize) -> bool {
        matches!(self, Self::Hidden(layers) if layers.contains(&layer))
    }
}

/// What a pass is over.
struct Pass<'a> {
    step: &'a mut Step,
    config: &'a ModelConfig,
    ropes: &'a [RopeId],
    tap: Tap<'a>,
    arrival: Option<&'a Arrival>,
    b: Buffers,
}

/// Records a whole forward pass over the step's batch. `ropes` are the tables of `config.ropes`. Returns the
/// logits of its output rows, outputs × vocabulary, or `None` where the batch asks for none and the head is
/// left out. What arrives does so before each layer attends.
pub fn record(
    step: &mut Step,
    model: &Resident,
    ropes: &[RopeId],
    config: &ModelConfig,
    tap: Tap<'_>,
    arrival: Option<&Arrival>,
) -> Option<Tensor> {
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
    let mut pass = Pass { step, config, ropes, tap, arrival, b };

    let out = pass.b.x;
    pass.step.push(Op::Embed { table: model.embedding, scale: config.embedding_scale, out });
    // What the last block left for the residual stream; the next norm takes it in.
    let mut residual = None;
    for (index, layer) in model.layers.iter().enumerate() {
        pass.attention(cols(index), layer, residual);
        pass.mlp(layer);
        residual = Some(pass.b.delta);
    }
    if pass.tap.has(config.layers) {
        pass.norm(pass.b.x, residual, model.final_norm, 1, pass.b.normed);
        pass.step.probe(pass.b.normed);
    }
    if pass.tap != Tap::Nothing || pass.step.row_count(RowSet::Outputs) == 0 {
        return None;
    }
    let normed = pass.step.tensor(RowSet::Outputs, hidden);
    let logits = pass.step.tensor(RowSet::Outputs, cols(config.vocab_size));
    pass.norm(pass.b.x, residual, model.final_norm, 1, normed);
    pass.step.push(Op::LoraMatmul { x: normed, projections: vec![(model.head, logits)] });
    if let Some(cap) = config.logit_softcap {
        pass.step.push(Op::Softcap { x: logits, cap });
    }
    Some(logits)
}

/// The heads of a layer.
pub fn attention_shape(config: &ModelConfig, layer: &Layer) -> AttentionShape {
    AttentionShape {
        heads: cols(config.heads),
        kv_heads: cols(config.kv_heads),
        head_dim: cols(config.head_dim),
        scale: config.attention_scale,
        softcap: config.attention_softcap,
        window: layer.kind.window.map(cols),
    }
}

fn cols(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Pass<'_> {
    fn norm(&mut self, x: Tensor, add: Option<Tensor>, weight: VectorId, heads: u32, out: Tensor) {
        self.step.push(Op::RmsNorm { x, add, weight, epsilon: self.config.norm_epsilon, heads, out });
    }

    fn attention(&mut self, index: u32, layer: &Layer, residual: Option<Tensor>) {
        let shape = attention_shape(self.config, layer);
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let Buffers { x, normed, q, k, v, mixed, delta, .. } = self.b;
        self.norm(x, residual, layer.input_norm, 1, normed);
        if self.tap.has(index as usize) {
            self.step.probe(normed);
        }
        let [wq, wk, wv] = layer.qkv;
        self.step.push(Op::LoraMatmul { x: normed, projections: vec![(wq, q), (wk, k), (wv, v)] });
        if let Some([on_q, on_k]) = layer.head_norms {
            self.norm(q, None, on_q, heads, q);
            self.norm(k, None, on_k, kv_heads, k);
        }
        if let Some(&table) = layer.kind.rope.and_then(|rope| self.ropes.get(rope)) {
            for x in [q, k] {
                self.step.push(Op::Rope { x, head_dim, table });
            }
        }
        self.step.push(Op::KvAppend { layer: index, k, v });
        if let Some(pages) = self.arrival {
            self.step.push(Op::Arrive { layer: index, pages: pages.clone() });
        }
        self.step.push(Op::PagedAttention { layer: index, shape, q, out: mixed });
        self.step.push(Op::LoraMatmul { x: mixed, projections: vec![(layer.o, delta)] });
        if let Some(weight) = layer.attention_out_norm {
            self.norm(delta, None, weight, 1, delta);
        }
    }

    fn mlp(&mut self, layer: &Layer) {
        let Buffers { x, normed, delta, gate, up, .. } = self.b;
        self.norm(x, Some(delta), layer.mlp_norm, 1, normed);
        let [wgate, wup] = layer.gate_up;
        self.step.push(Op::LoraMatmul { x: normed, projections: vec![(wgate, gate), (wup, up)] });
        self.step.push(Op::SwiGlu { activation: self.config.activation, gate, up, out: gate });
        self.step.push(Op::LoraMatmul { x: gate, projections: vec![(layer.down, delta)] });
        if let Some(weight) = layer.mlp_out_norm {
            self.norm(delta, None, weight, 1, delta);
        }
    }
}
