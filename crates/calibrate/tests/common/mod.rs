//! The engine that calibrations are tested on.

use std::path::PathBuf;

use interleaf_demo_model as demo_model;
use interleaf_runtime::{BackendChoice, Engine, EngineOptions, PageElement, Source};

/// The demo model on the CPU, with no adapters yet. It keeps what it computes, but with the pages that are calibrated on.
pub fn engine(pages: PageElement, store: Option<PathBuf>) -> Engine {
    let options = EngineOptions {
        backend: BackendChoice::Cpu,
        pages,
        prefix_cache: pages == PageElement::F16,
        store,
        ..EngineOptions::default()
    };
    let base = Source::Embedded { name: demo_model::NAME, files: demo_model::BASE };
    Engine::open(base, &options, &mut |_| ()).unwrap()
}
