//! How the KV pages of an adapter differ from its base's, fitted once for each adapter ([`calibrate`]), and what storing them
//! by each [`Codec`] costs in quality ([`measure`]), or an engine that shares them within a budget ([`hold`]).
//!
//! Beside that, what chooses an adapter for a prompt, fitted to prompts that name theirs ([`train_router`]), and what that is worth
//! ([`evaluate_router`]).
//!
//! It runs windows of tokens through an engine and reads its pages; nothing here is needed to answer a request. What a
//! calibration holds and its file are [`interleaf_model::Calibration`]'s. Definitions of codecs are `kernels-ref`'s.

mod anchor;
mod basis;
mod calibrate;
mod codec;
mod error;
mod fit;
mod held;
mod kv;
mod ladder;
mod measure;
mod moments;
mod pages;
mod prefix;
mod products;
mod rest;
mod router;
mod score;
mod spread;
mod touch;
mod turns;
mod widths;
mod windows;

pub use anchor::Anchor;
pub use calibrate::{HELD_BACK, Progress, calibrate};
pub use codec::{Codec, Family};
pub use error::CalibrateError;
pub use fit::MOST_COLUMNS;
pub use held::{Budgets, Held, Outcome, Reader, Shared, hold, unshared_bytes};
pub use interleaf_contract::{CHUNK_TOKENS, PageHalf};
pub use interleaf_kv::Width;
pub use kv::Kv;
pub use measure::{Measured, Parts, Subject, f16_bytes_per_token, measure};
pub use products::Products;
pub use router::{
    Evaluated, LabelRow, Labelled, Preference, Prompts, Row, SCORED, TOPS, Times, Trained, TrainedRouter,
    Training, evaluate_router, read_prompts, tokens, train_router,
};
pub use score::Divergence;
pub use touch::{CONTINUATION, PREFIXES, Touch, Touched, Toucher, measure_touches};
pub use widths::{Assigned, MassShape, SEEDS, WidthCost, WidthPlan, WidthsMeasured, measure_widths};
pub use windows::{Windows, cut, read_windows};
