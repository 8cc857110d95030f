//! What a model folder and an adapter folder hold, as the rest of the engine needs it: `config.json`,
//! safetensors weights (mapped, or converted at load), PEFT adapters, their calibrations and heads that choose among
//! them, the tokenizer, the chat template and the generation defaults.
//!
//! This crate reads, checks, converts and takes digests. It never computes a forward pass and knows no device. Every
//! refusal is a [`ModelError`] that names the file, the tensor or field, and what was expected.

mod calibration;
mod chat;
mod config;
mod digest;
mod error;
mod families;
mod generated;
mod generation;
mod inventory;
mod json;
mod model;
mod peft;
mod quantise;
mod rope;
mod router;
mod source;
mod tensor_data;
mod tensor_file;
mod tensor_index;
mod tokenizer;
mod weights;

#[cfg(test)]
mod fixture;

pub use calibration::{
    Calibration, Directions, HalfCalibration, JointCalibration, Ladder, LayerCalibration, MOST_DIRECTIONS,
    MadeFrom, MeasuredCodec, MeasuredTouch, Resting, Rung,
};
pub use chat::{ChatMessage, ChatTemplate};
pub use config::{Biases, LayerKind, ModelConfig, Proj};
pub use digest::Digest;
pub use error::ModelError;
pub use families::supported_architectures;
pub use generated::Shape;
pub use generation::GenerationDefaults;
pub use inventory::TensorInfo;
pub use model::{Model, NormWeights, ProjectionWeights};
pub use peft::{PeftAdapter, PeftSite};
pub use quantise::q8_0_matrix;
pub use rope::{RopeConfig, RopeScaling};
pub use router::{Looks, MOST_LABELS, MOST_SCORED, Pooling, RouterHead, RouterLabel, RouterOrigin};
pub use source::Source;
pub use tokenizer::{TextStream, Tokenizer};
pub use weights::WeightFormat;
