//! The models at hand: the embedded one, and the families under `tests/data`.

use std::path::PathBuf;

use interleaf_demo_model as demo;
use interleaf_runtime::{BackendChoice, Engine, EngineOptions, PageElement, Source};

pub fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data").join(path)
}

pub fn options(backend: BackendChoice) -> EngineOptions {
    EngineOptions { backend, pages: PageElement::F32, ..EngineOptions::default() }
}

pub fn embedded(name: &'static str, files: &'static [demo::File]) -> Source {
    Source::Embedded { name, files }
}

/// The demo model with all its adapters.
pub fn demo(options: &EngineOptions) -> Engine {
    let mut engine =
        Engine::open(embedded(demo::NAME, demo::BASE), options, &mut |_| ()).expect("the model loads");
    for &(name, files) in demo::ADAPTERS {
        engine.register_adapter(name, &embedded(name, files)).expect("its adapters load");
    }
    engine
}

/// `None` and every adapter's name.
pub fn models() -> Vec<Option<&'static str>> {
    std::iter::once(None).chain(demo::ADAPTERS.iter().map(|(name, _)| Some(*name))).collect()
}

/// Tokens of a prompt that each model is at home with, after the shared system prompt.
pub fn prompts(engine: &Engine) -> Vec<Vec<u32>> {
    let tokenizer = engine.tokenizer("a test").expect("the demo model has one");
    let text = |question: &str| {
        format!("<|bos|><|system|>\n{}\n<|user|>\n{question}\n<|assistant|>\n", demo::SYSTEM)
    };
    demo::QUESTIONS.iter().map(|(_, q)| tokenizer.encode(&text(q), false).expect("plain text")).collect()
}
