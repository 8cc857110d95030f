//! Workloads of four papers, described in TOML and drawn from a seed, and a machine that serves them in simulated time, with
//! the engine's own cache between them: [`Simulation`] makes one run and [`Grid`] many, and [`table`] shows them.
//!
//! [`Workload`] and [`Server`] know no cache and can be driven by any other: it takes the [`Event`]s of a workload, says
//! what each request needs, and puts the times that the server answers into [`Summary`]s.

mod adapters;
mod draw;
mod driver;
mod error;
mod event;
mod file;
mod grid;
mod machine;
mod policies;
mod row;
mod server;
mod summary;
pub mod table;
mod text;
mod values;
mod working_set;
mod workload;

pub use adapters::{AdapterSet, AdapterShape, Projection};
pub use driver::{Simulation, SimulationError};
pub use error::SettingsError;
pub use event::{AppState, Event, Request, What};
pub use grid::{Cell, Grid, Sizes};
pub use machine::{Calibration, DecodeCost, Linear, ModelShape, PrefillCost};
pub use policies::NamedPolicy;
pub use row::{Report, Row, Run};
pub use server::{Busy, Moment, Needs, Phase, Server, ServerError};
pub use summary::Summary;
pub use text::{Segment, VOCABULARY, length, shared_prefix, tokens};
pub use values::{Between, NonNegative, Positive, Probability};
pub use working_set::working_set;
pub use workload::{Events, Workload};
