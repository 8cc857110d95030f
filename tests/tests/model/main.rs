//! The whole model: against PEFT's golden vectors, and against itself in every batch it may meet.

mod activated;
mod adapters;
mod bad_adapters;
mod budget;
mod calibrated;
mod chained;
mod conversation;
mod dispatches;
mod first_touch;
mod generation;
mod golden;
mod golden_gpu;
mod independence;
mod keys;
mod loading;
mod lossy;
mod peft_decisions;
mod pooled;
mod rest;
mod reuse;
mod service;
mod support;
mod swap;
mod tapped;
mod text;
mod widths;
