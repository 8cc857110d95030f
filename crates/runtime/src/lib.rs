//! The library that apps embed: one resident base model, any mix of LoRA adapters over it in one batch,
//! and a paged KV cache.
//!
//! It is thin: kernels are a [`Backend`](interleaf_contract::Backend)'s, placement of pages is
//! `interleaf-kv`'s, files are `interleaf-model`'s. What is here is the forward pass, written once over
//! the trait ([`Engine`]), and the loop that mixes prompts and answers of many requests
//! ([`Engine::generate`]).
//!
//! # When a GPU fails
//!
//! What a device fails with is an error and never an abort. Under [`BackendChoice::Auto`] the CPU takes over: the base and
//! the adapters are made resident there, pages are computed again from the tokens that they were of, and answers under
//! way go on where they were; one warning says so. That takes as long as loading the model and reading the prompts did.
//! Under [`BackendChoice::Gpu`] the call fails, and answers under way are kept with the error
//! ([`EngineError::DeviceFailed`]).
//!
//! wgpu panics where a device is lost while it is waited for. That panic is caught, which it can only be in a build with
//! `panic = "unwind"`, cargo's default: an app that is built with `panic = "abort"` ends there. The panic hook runs
//! either way, so what it prints or reports is no sign that the app has failed.

mod active;
mod adapters;
mod ahead;
mod backend;
mod budget;
#[cfg(feature = "c-api")]
mod c;
mod cache;
mod checked;
mod conversation;
pub mod doctor;
mod encode;
mod engine;
mod error;
mod fallback;
mod feed;
mod first_touch;
mod forms;
mod forward;
mod gate;
mod generate;
mod histogram;
mod history;
mod inspect;
mod joint_map;
mod keys;
mod lifecycle;
mod mass;
mod origin;
mod recompute;
mod request;
mod reserve;
mod resident;
mod rest;
mod router;
mod sampling;
mod service;
mod step;
mod store;
mod swap;
mod sync;
mod tend;
mod text;
mod traced;
mod widths;

pub use adapters::{AdapterStats, AdapterSummary};
pub use backend::{BackendChoice, GpuSettings};

/// The library's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use conversation::Conversation;
pub use engine::{Engine, EngineOptions, LoadProgress, MemoryUse, TierUse};
pub use error::EngineError;
pub use feed::{Fed, Feed, SequenceHandle, Want};
pub use first_touch::{TRANSLATION_RANK, TranslationMap, translation};
pub use gate::GpuGate;
pub use histogram::Histogram;
pub use interleaf_contract::{
    Activation, BackendInfo, DevicePeaks, DeviceWork, KernelWork, Numerics, PageElement, RowKind, Sampler,
};
pub use interleaf_kv::policy::AppState;
pub use interleaf_kv::{FirstTouch, Translation, TrimLevel};
pub use interleaf_model::{
    Calibration, ChatMessage, ChatTemplate, Digest, JointCalibration, LayerKind, Looks, MOST_SCORED,
    MadeFrom, MeasuredTouch, Model, ModelConfig, ModelError, PeftAdapter, PeftSite, Pooling, Proj,
    RopeConfig, RopeScaling, RouterHead, RouterLabel, RouterOrigin, Shape, Source, TensorInfo, Tokenizer,
    WeightFormat,
};
pub use keys::{KeyPath, KeyReads, KeyReason, KeyTimes};
pub use mass::MassSampling;
pub use request::{Completion, Event, FinishReason, Request};
pub use resident::WeightBytes;
pub use router::{AdapterChoice, AdapterScore, Routed};
pub use sampling::SamplingOptions;
pub use service::{
    Answer, App, CallId, CallOptions, Context, ContextId, Generation, Progress, Prompt, Restored, Service,
    ServiceError, ServiceOptions, ServiceStats, WhenFull, Whose,
};
pub use store::{DigestOrigin, Store, write_calibration, write_router};
pub use swap::{FlashProfile, SwapOptions, SwapStats, SwitchMeasure};
pub use traced::{KERNELS, wants_kernels};
pub use widths::{WIDTH_ERRORS, WidthOptions};
