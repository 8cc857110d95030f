//! A context of 1,024 tokens comes back (LLMS's context switch): from an app that was killed, by computing all of it; from a file of
//! exact pages; and from one of narrowed pages, as the engine would keep them within a drift budget. Generated weights of
//! Llama 3.2 1B's shape in 4 bits. The file is held back to UFS 4.0's speed and latency; the same without that is beside it. What the
//! system has of it in memory is dropped before each read.
//!
//! What is timed takes turns; medians and their shares are printed.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use interleaf_demo_model as demo;
use interleaf_runtime::{
    Engine, EngineOptions, Feed, FlashProfile, RowKind, SequenceHandle, Shape, Source, SwapOptions,
    TrimLevel, Want, WeightFormat, WidthOptions,
};

const CONTEXT: usize = 1024;
const FILE: u64 = 512 << 20;
const TURNS: usize = 9;

/// What the narrowed context's calls allow, in nats: more than bounds of random weights' pages come to.
const BUDGET: f32 = 10.0;

pub fn switch() {
    let model = if crate::is_measuring() { "llama-3.2-1b, generated, Q4_0" } else { "the demo model" };
    println!("a context of {CONTEXT} tokens comes back, {model}:");
    let recomputed = recomputed();
    println!("  {:<47} {:>9.2} ms", "killed, computed again", 1e3 * recomputed);
    for profile in [Some(FlashProfile::UFS_4_0), None] {
        let storage = if profile.is_some() { "UFS 4.0" } else { "this machine's storage" };
        // What the others are beside is only read.
        let exact = swapped(profile, None, 0.0, false);
        assert_eq!(exact.computed, 0);
        let ways = [
            ("exact pages, read alone", None),
            ("exact pages", Some((None, 0.0))),
            ("pages of 4 bits", Some((Some(0.5), BUDGET))),
            ("pages of 3 bits", Some((Some(0.375), BUDGET))),
        ];
        for (name, planned) in ways {
            let back = planned.map_or(exact, |(share, drift)| swapped(profile, share, drift, true));
            println!(
                "  {:<47} {:>9.2} ms  {:>6.1} MB  {:>5.1} x exact, {:>6.0} x computed again, {} chunks computed",
                format!("{storage}, {name}"),
                1e3 * back.seconds,
                1e-6 * back.bytes as f64,
                exact.seconds / back.seconds,
                recomputed / back.seconds,
                back.computed
            );
        }
    }
}

fn open(options: &EngineOptions) -> Engine {
    let (source, weights) = match crate::is_measuring() {
        true => {
            let shape = Shape::named("llama-3.2-1b").expect("a shape");
            (Source::Generated { shape, seed: 1 }, WeightFormat::Q4_0)
        }
        false => (Source::Embedded { name: demo::NAME, files: demo::BASE }, WeightFormat::Stored),
    };
    let options = EngineOptions { weights, ..options.clone() };
    let mut engine = Engine::open(source, &options, &mut |_| ()).expect("the model loads");
    engine.reserve_kv(2, CONTEXT + 64).expect("a pool");
    engine
}

fn tokens(engine: &Engine, turn: usize) -> Vec<u32> {
    let vocabulary = engine.config().vocab_size;
    (0..CONTEXT).map(|i| ((i * 7919 + turn * 104_729 + 11) % vocabulary) as u32).collect()
}

fn feed(engine: &mut Engine, sequence: SequenceHandle, tokens: &[u32]) {
    for tokens in tokens.chunks(128) {
        let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want: Want::Nothing };
        engine.feed(&[feed]).expect("it runs");
    }
}

/// Seconds of a prefill.
fn recomputed() -> f64 {
    let mut engine = open(&EngineOptions::default());
    let times = (0..crate::turns(3)).map(|turn| {
        let tokens = tokens(&engine, turn);
        let sequence = engine.open_sequence(None, &tokens).expect("room");
        let start = Instant::now();
        feed(&mut engine, sequence, &tokens);
        let time = start.elapsed();
        engine.close_sequence(sequence).expect("open");
        time
    });
    median(times.collect())
}

/// A context that was swapped out and has come back.
#[derive(Clone, Copy)]
struct Back {
    /// Until it can be read.
    seconds: f64,
    /// Bytes of its pages.
    bytes: u64,
    /// Chunks that were computed again while others were read, in all turns.
    computed: u64,
}

/// A context comes back, by what was measured of the machine if that is to say what is read and what is computed; else by what such
/// machines take, by which all of it is read.
fn swapped(profile: Option<FlashProfile>, share: Option<f64>, drift: f32, is_measured: bool) -> Back {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Some(folder.path().to_owned());
    let widths = share.map(|ratio| WidthOptions { ratio, above: 0.0, ..WidthOptions::default() });
    let swap = Some(SwapOptions { bytes: FILE, profile });
    let mut engine = open(&EngineOptions { store, swap, widths, ..EngineOptions::default() });
    if is_measured {
        engine.measure_switch().expect("it runs");
        engine.reserve_kv(2, CONTEXT + 64).expect("a pool");
    }
    let tokens = tokens(&engine, 0);
    let (sequence, _) = engine.resume_sequence(None, &tokens, drift).expect("room");
    feed(&mut engine, sequence, &tokens);
    engine.close_sequence(sequence).expect("open");
    loop {
        // What is being written changes its form afterwards.
        engine.flush_swap().expect("it is written");
        if engine.tend(CONTEXT).expect("it runs") == 0 {
            break;
        }
    }
    let bytes = engine.memory().kv_cached;
    let times: Vec<Duration> = (0..crate::turns(TURNS))
        .map(|_| {
            engine.trim_memory(TrimLevel::Warning).expect("it is written");
            assert_eq!(engine.memory().kv_cached, 0, "all of it has left memory");
            drop_cached(&folder.path().join("swap/pages"));
            let start = Instant::now();
            let (sequence, reused) = engine.resume_sequence(None, &tokens, drift).expect("room");
            let time = start.elapsed();
            assert!(reused + 16 >= CONTEXT, "{reused} tokens are back");
            engine.close_sequence(sequence).expect("open");
            engine.flush_swap().expect("it is written");
            time
        })
        .collect();
    let computed = engine.swap_stats().expect("it swaps").recomputed;
    Back { seconds: median(times), bytes, computed }
}

/// What is read next comes from the storage, where the system forgets what it is asked to.
fn drop_cached(file: &Path) {
    let file = File::open(file).expect("it is there");
    file.sync_all().expect("it is written");
    #[cfg(any(target_os = "linux", target_os = "android"))]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("it is forgotten");
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
