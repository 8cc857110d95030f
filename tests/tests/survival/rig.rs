//! The demo model as an app runs it where room is short, and what it says when nobody disturbs it.

use std::ops::ControlFlow;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use interleaf_demo_model as demo;
use interleaf_runtime::{
    Answer, BackendChoice, CallOptions, Engine, EngineError, EngineOptions, Generation, MemoryUse, Request,
    SamplingOptions, Service, ServiceError, ServiceOptions, Source, SwapOptions,
};
use interleaf_tests::data::Random;

/// Longer than anything here takes: who waits so long waits for ever.
const HANGS: Duration = Duration::from_secs(120);

/// What the file of swapped pages may take.
const FILE: u64 = 16 << 20;

pub fn options() -> EngineOptions {
    EngineOptions { backend: BackendChoice::Cpu, threads: 1, ..EngineOptions::default() }
}

/// The options of one whose adapters come and go and whose pages leave memory for a file of the store.
pub fn swapping(store: &Path) -> EngineOptions {
    EngineOptions {
        store: Some(store.into()),
        swap: Some(SwapOptions::new(FILE)),
        pool_adapters: true,
        ..options()
    }
}

pub fn source(name: &'static str, files: &'static [demo::File]) -> Source {
    Source::Embedded { name, files }
}

/// The demo model, with all its adapters, and a pool.
pub fn engine(options: &EngineOptions, sequences: usize, tokens: usize) -> Engine {
    open(options, sequences, tokens).expect("the model loads")
}

/// The same, or why it does not load.
pub fn open(options: &EngineOptions, sequences: usize, tokens: usize) -> Result<Engine, EngineError> {
    let mut engine = Engine::open(source(demo::NAME, demo::BASE), options, &mut |_| ())?;
    for &(name, files) in demo::ADAPTERS {
        engine.register_adapter(name, &source(name, files))?;
    }
    engine.reserve_kv(sequences, tokens)?;
    Ok(engine)
}

pub fn start(engine: Engine) -> Service {
    Service::start(engine, ServiceOptions::default()).expect("it starts")
}

/// One that answers each request as if it were the first and the only one.
pub struct Alone(Engine);

impl Alone {
    pub fn new() -> Self {
        Self(engine(&EngineOptions { prefix_cache: false, ..options() }, 1, 2048))
    }

    pub fn says(&mut self, prompt: &[u32], adapter: Option<&str>, max_tokens: usize) -> Vec<u32> {
        let request = Request {
            prompt: prompt.to_vec(),
            adapter: adapter.map(str::to_owned),
            max_tokens,
            sampling: SamplingOptions::default(),
            stop: Vec::new(),
            end_tokens: Vec::new(),
            drift: 0.0,
        };
        self.0.generate(&[request], &mut |_| ControlFlow::Continue(())).expect("an answer").remove(0).tokens
    }
}

/// A call whose answer has so many tokens, whatever they are.
pub fn call(adapter: Option<&str>, max_tokens: usize) -> CallOptions {
    CallOptions {
        adapter: adapter.into(),
        max_tokens,
        end_tokens: Some(Vec::new()),
        ..CallOptions::default()
    }
}

/// How a call ends, which it does.
pub fn end(generation: Generation) -> Result<Answer, ServiceError> {
    loop {
        match generation.next_within(HANGS) {
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => return generation.wait(),
            Poll::Pending => panic!("nothing is heard of a call any more"),
        }
    }
}

/// Ordinary tokens of the demo model.
pub fn tokens(random: &mut Random, count: usize) -> Vec<u32> {
    (0..count).map(|_| 16 + random.below(1000) as u32).collect()
}

/// The base or one of the adapters.
pub fn adapter(random: &mut Random) -> Option<&'static str> {
    random.below(demo::ADAPTERS.len() + 1).checked_sub(1).map(|place| demo::ADAPTERS[place].0)
}

/// Bytes of the pool that are held.
pub fn held(memory: &MemoryUse) -> u64 {
    memory.kv_in_use + memory.kv_cached + memory.kv_adapters
}

/// How many of something a test does: as an environment variable says, else a number that takes no long time.
pub fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |count| count.parse().expect(variable))
}
