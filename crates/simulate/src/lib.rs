//! Workloads of four papers, described in TOML and drawn from a seed, and what a machine takes for them.

mod adapters;
mod draw;
mod error;
mod event;
mod file;
mod machine;
mod text;
mod values;
mod workload;

pub use adapters::{AdapterSet, AdapterShape, Projection};
pub use error::SettingsError;
pub use event::{AppState, Event, Request, What};
pub use machine::{Calibration, DecodeCost, Linear, ModelShape, PrefillCost};
pub use text::{Segment, VOCABULARY, length, shared_prefix, tokens};
pub use values::{Between, NonNegative, Positive, Probability};
pub use workload::{Events, Workload};
