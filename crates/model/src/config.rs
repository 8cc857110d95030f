//! What a model is: sizes, scales and options, independent of how its family spells them.
//!
//! `config.json` is read by the families; see [`crate::families`].

use interleaf_contract::Activation;

use crate::RopeConfig;

/// Sizes beyond these are damage, not models; the limits keep every product of two far from overflow.
pub(crate) mod limits {
    /// Tokens in a vocabulary, and positions in a context.
    pub const LONG: usize = 1 << 24;
    /// Columns of a matrix.
    pub const WIDTH: usize = 1 << 20;
    /// Elements of a head.
    pub const HEAD: usize = 1 << 14;
    /// Layers, and heads of a layer.
    pub const COUNT: usize = 1 << 12;
}

/// A model's sizes and options.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family: `llama`, `qwen2`, `qwen3`, `smollm3`, `gemma2`, `gemma3` or `phi3`.
    pub family: &'static str,
    /// Rows of the embedding and of the output head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Under the root of every RMS norm.
    pub norm_epsilon: f32,
    /// On the MLP's gate.
    pub activation: Activation,
    /// Attention scores are multiplied by it: `1/√head_dim` in most families.
    pub attention_scale: f32,
    /// Then each becomes `cap · tanh(score / cap)`, before the softmax.
    pub attention_softcap: Option<f32>,
    /// Each logit becomes `cap · tanh(logit / cap)`.
    pub logit_softcap: Option<f32>,
    /// Embeddings are multiplied by it: 1, or `√hidden_size` rounded to f32.
    pub embedding_scale: f32,
    /// Whether the embedding is the output head as well.
    pub tied_head: bool,
    /// Positions that the model is made for.
    pub max_positions: usize,
    /// The rotary position embeddings that layers choose from.
    pub ropes: Vec<RopeConfig>,
    /// What each layer's attention is like, by layer.
    pub layer_kinds: Vec<LayerKind>,
    /// Whether every head of the queries and of the keys is normed before it is rotated
    /// ([`Model::q_norm`](crate::Model::q_norm)).
    pub head_norms: bool,
    /// Whether the outputs of attention and MLP are normed before they are added to the residual stream
    /// ([`Model::attention_out_norm`](crate::Model::attention_out_norm)).
    pub post_norms: bool,
    /// Which projections have biases.
    pub biases: Biases,
    /// The token a prompt starts with.
    pub bos: Option<u32>,
    /// The tokens that end an answer, by `config.json` alone; what generation should stop at is in
    /// [`GenerationDefaults`](crate::GenerationDefaults).
    pub eos: Vec<u32>,
}

/// The attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerKind {
    /// Index into [`ModelConfig::ropes`]; `None` where queries and keys are not rotated.
    pub rope: Option<usize>,
    /// A token sees itself and the `window - 1` before it; `None` where it sees all before it.
    pub window: Option<usize>,
}

/// Which projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The attention's output.
    pub o: bool,
    /// Gate, up and down.
    pub mlp: bool,
}

/// A linear layer inside a transformer layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proj {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// The attention's output.
    O,
    /// The MLP's gate.
    Gate,
    /// What is gated.
    Up,
    /// The MLP's output.
    Down,
}

impl Proj {
    /// Every projection, in the order of the forward pass.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];
}

impl ModelConfig {
    /// Outputs and inputs of a projection: the rows and columns of its matrix.
    #[must_use]
    pub fn projection_shape(&self, proj: Proj) -> [usize; 2] {
        let (hidden, mlp) = (self.hidden_size, self.intermediate_size);
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        match proj {
            Proj::Q => [queries, hidden],
            Proj::K | Proj::V => [keys, hidden],
            Proj::O => [hidden, queries],
            Proj::Gate | Proj::Up => [mlp, hidden],
            Proj::Down => [hidden, mlp],
        }
    }

    /// Whether a projection has a bias.
    #[must_use]
    pub fn has_bias(&self, proj: Proj) -> bool {
        match proj {
            Proj::Q | Proj::K | Proj::V => self.biases.qkv,
            Proj::O => self.biases.o,
            Proj::Gate | Proj::Up | Proj::Down => self.biases.mlp,
        }
    }
}
