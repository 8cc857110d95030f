//! Workloads of four papers, described in TOML and drawn from a seed, and a machine that serves them in simulated time.
//! It knows no cache: a driver takes the [`Event`]s of a [`Workload`], asks its cache what each request needs, tells the
//! [`Server`], and puts the times that the [`Server`] answers into [`Summary`]s.

mod adapters;
mod draw;
mod error;
mod event;
mod file;
mod machine;
mod server;
mod summary;
mod text;
mod values;
mod workload;

pub use adapters::{AdapterSet, AdapterShape, Projection};
pub use error::SettingsError;
pub use event::{AppState, Event, Request, What};
pub use machine::{Calibration, DecodeCost, Linear, ModelShape, PrefillCost};
pub use server::{Busy, Moment, Needs, Phase, Server, ServerError};
pub use summary::Summary;
pub use text::{Segment, VOCABULARY, length, shared_prefix, tokens};
pub use values::{Between, NonNegative, Positive, Probability};
pub use workload::{Events, Workload};
