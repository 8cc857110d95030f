//! The library that apps embed: one resident base model, any mix of LoRA adapters over it in one batch,
//! and a paged KV cache.
//!
//! It is thin: kernels are a [`Backend`](interleaf_contract::Backend)'s, placement of pages is
//! `interleaf-kv`'s, files are `interleaf-model`'s. What is here is the forward pass, written once over
//! the trait ([`Engine`]), and the loop that mixes prompts and answers of many requests
//! ([`Engine::generate`]).

mod active;
mod adapters;
mod backend;
mod conversation;
pub mod doctor;
mod engine;
mod error;
mod feed;
mod forward;
mod gate;
mod generate;
mod inspect;
mod request;
mod resident;
mod sampling;
mod store;
mod text;

pub use adapters::AdapterSummary;
pub use backend::{BackendChoice, GpuSettings};

/// The library's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use conversation::Conversation;
pub use engine::{Engine, EngineOptions, LoadProgress, MemoryUse};
pub use error::EngineError;
pub use feed::{Fed, Feed, SequenceHandle, Want};
pub use gate::GpuGate;
pub use interleaf_contract::{
    Activation, BackendInfo, DeviceWork, KernelWork, Numerics, PageCodec, RowKind, Sampler,
};
pub use interleaf_model::{
    ChatMessage, ChatTemplate, Digest, LayerKind, Model, ModelConfig, ModelError, PeftAdapter, PeftSite,
    Proj, RopeConfig, RopeScaling, Shape, Source, TensorInfo, Tokenizer, WeightFormat,
};
pub use request::{Completion, Event, FinishReason, Request};
pub use resident::WeightBytes;
pub use sampling::SamplingOptions;
pub use store::{DigestOrigin, Store};
