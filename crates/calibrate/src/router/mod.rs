//! Routers: a head that says which adapters suit a prompt, fitted to prompts that say so themselves, and what it is worth beside
//! simpler ways of choosing.

mod classifier;
mod data;
mod eval;
mod features;
mod fit;
mod scale;
mod train;

pub use data::{Labelled, Prompts, read_prompts};
pub use eval::{Evaluated, LabelRow, Preference, Row, TOPS, Times, evaluate_router};
pub use train::{SCORED, Trained, TrainedRouter, Training, tokens, train_router};
