//! PEFT LoRA adapters: `adapter_config.json` and `adapter_model.safetensors`, checked against the base
//! model they are for.
//!
//! The tensors in the file decide which modules are adapted, and must be of exactly those that PEFT would
//! adapt by `target_modules` and the fields beside it. Only where `target_modules` is absent or null are they
//! not compared: PEFT then takes a default by family, which has changed over its versions. What would change
//! the computation beyond `y += scale · (x·Aᵀ)·Bᵀ`, and from which token on that is done, is refused by name,
//! never ignored.

mod config;
mod path_regex;
mod pattern;
mod sites;
mod target;

use interleaf_contract::{Dtype, Matrix};

use crate::tensor_file::TensorFile;
use crate::{Digest, Model, ModelError, Source, digest};
use config::LoraConfig;

const TENSORS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";

/// A LoRA adapter that fits its base model.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    /// What its owner calls it.
    pub name: String,
    /// The adapted projections, in the base model's order, each once.
    pub sites: Vec<PeftSite>,
    /// `r`: the rank where `rank_pattern` does not say another. A site's own is [`PeftSite::rank`].
    pub rank: usize,
    /// `lora_alpha`, where `alpha_pattern` does not say another.
    pub alpha: f64,
    /// Whether scales are `α/√r` rather than `α/r`.
    pub rslora: bool,
    /// `target_modules` as the config has it, for display: names joined by commas, or a regex.
    pub targets: String,
    /// `alora_invocation_tokens` of an activated LoRA, at least one token; `None` for one that acts on every
    /// token.
    ///
    /// An activated LoRA acts from the first token of the *last* occurrence of these tokens in the prompt
    /// on: on the occurrence itself, on what follows, and on what is generated. Before it, and everywhere if
    /// they do not occur, the base is computed, to the bit. Where it starts is settled by the prompt: tokens
    /// that are generated neither start it nor move its start.
    pub invocation: Option<Vec<u32>>,
}

/// One adapted projection: `y += scale · (x·Aᵀ)·Bᵀ`.
///
/// An adapter of a module that is several projections, such as `qkv_proj`, has one for each: the same A,
/// shared, and of B the projection's rows.
#[derive(Debug, Clone)]
pub struct PeftSite {
    /// The projection in the base model: a [`crate::ProjectionWeights::name`] or
    /// [`Model::head_name`].
    pub module: String,
    /// Rows of A and columns of B.
    pub rank: usize,
    /// `α/r`, or `α/√r` for rank-stabilised adapters. May be 0.
    pub scale: f32,
    /// `rank × in`, f32 or f16 as stored; bf16 is widened to f32, which loses nothing.
    pub a: Matrix,
    /// `out × rank`, likewise.
    pub b: Matrix,
    /// What A and B are stored as in the file.
    pub dtypes: [Dtype; 2],
}

impl PeftAdapter {
    /// The files that [`PeftAdapter::digest`] covers. It depends on the base's config besides
    /// ([`Model::config_digest`]), which orders the sites and parts fused ones.
    pub const FILES: [&str; 2] = ["adapter_config.json", TENSORS];

    /// Opens an adapter and checks it against its base model. Every factor is read once, to find
    /// infinities and NaN.
    ///
    /// # Errors
    /// Names the file and the field or tensor that is missing, damaged, unsupported or does not fit
    /// the base model.
    pub fn open(name: &str, source: &Source, model: &Model) -> Result<Self, ModelError> {
        let config = LoraConfig::read(source, model.config().vocab_size)?;
        if !source.exists(TENSORS) && source.exists(PICKLE) {
            return Err(ModelError::Pickle { file: source.describe(PICKLE), needed: TENSORS });
        }
        let file = TensorFile::open(source, TENSORS)?;
        let sites = sites::read(&file, &config, model)?;
        let LoraConfig { rank, alpha, rslora, targets, invocation, .. } = config;
        Ok(Self { name: name.into(), sites, rank, alpha, rslora, targets, invocation })
    }

    /// What the adapter is, by content: for every site its module, rank, scale, and the type and values of
    /// its factors as stored; and its invocation. Names and paths do not matter. Every factor is read.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest::of_adapter(self)
    }
}
