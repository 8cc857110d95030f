//! Chunks that leave memory come back from the file: in the same run and in the next one, whatever was done to the file meanwhile,
//! and the answers are what they would have been.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use interleaf_runtime::{
    AppState, BackendChoice, CallOptions, Completion, Engine, EngineError, EngineOptions, FlashProfile,
    Prompt, Request, SamplingOptions, Service, ServiceOptions, SwapOptions, SwapStats, SwitchMeasure,
    TrimLevel,
};

use interleaf_tests::backends;

use super::support::{demo, options, prompts};

/// The CPU, and the GPU where there is one.
fn all_backends() -> Vec<BackendChoice> {
    let gpu = backends::gpu().map(|_| BackendChoice::Gpu);
    [Some(BackendChoice::Cpu), gpu].into_iter().flatten().collect()
}

/// Room for some thousand chunks.
const FILE: u64 = 256 << 20;

fn engine(store: &Path, backend: BackendChoice) -> Engine {
    let swap = Some(SwapOptions::new(FILE));
    let mut engine = demo(&EngineOptions { store: Some(store.into()), swap, ..options(backend) });
    engine.reserve_kv(2, 512).expect("a small pool");
    engine
}

fn ask(engine: &mut Engine, prompt: &[u32], adapter: Option<&str>, drift: f32) -> Completion {
    let request = Request {
        prompt: prompt.to_vec(),
        adapter: adapter.map(str::to_owned),
        max_tokens: 12,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift,
    };
    engine.generate(&[request], &mut |_| ControlFlow::Continue(())).expect("an answer").remove(0)
}

/// A text of so many tokens.
fn text(engine: &Engine, tokens: usize) -> Vec<u32> {
    prompts(engine).concat().into_iter().cycle().take(tokens).collect()
}

fn stats(engine: &Engine) -> SwapStats {
    engine.swap_stats().expect("it swaps")
}

/// Everything leaves memory that may.
fn empty(engine: &mut Engine) {
    engine.trim_memory(TrimLevel::Warning).expect("nothing fails");
    assert_eq!(engine.memory().kv_cached, 0);
}

#[test]
fn what_left_memory_is_read_back() {
    let all =
        all_backends().into_iter().flat_map(|backend| [None, Some("rust-code")].map(|of| (backend, of)));
    for (backend, adapter) in all {
        let store = tempfile::tempdir().expect("a folder");
        let mut engine = engine(store.path(), backend);
        let text = text(&engine, 300);
        let before = ask(&mut engine, &text, adapter, 0.0);
        empty(&mut engine);
        let had = stats(&engine);
        assert!(had.written >= 18, "{had:?}");
        let after = ask(&mut engine, &text, adapter, 0.0);
        assert_eq!(after.tokens, before.tokens);
        assert_eq!(after.reused_tokens, 288, "whole chunks");
        let SwapStats { read, recomputed, damaged, .. } = stats(&engine);
        let back = (read - had.read, recomputed - had.recomputed);
        assert!(back.0 > 0 && back.0 + back.1 == 18, "{back:?}");
        assert_eq!(damaged, 0);
    }
}

#[test]
fn the_next_run_finds_what_this_one_left() {
    let store = tempfile::tempdir().expect("a folder");
    let mut first = engine(store.path(), BackendChoice::Cpu);
    let text = text(&first, 300);
    let models = [None, Some("rust-code"), Some("error-codes")];
    let before = models.map(|adapter| ask(&mut first, &text, adapter, 0.0));
    drop(first);
    let mut next = engine(store.path(), BackendChoice::Cpu);
    assert!(stats(&next).restored >= 54, "{:?}", stats(&next));
    for (adapter, before) in models.into_iter().zip(before) {
        let after = ask(&mut next, &text, adapter, 0.0);
        assert_eq!(after.tokens, before.tokens, "{adapter:?}");
        assert_eq!(after.reused_tokens, 288, "{adapter:?}: whole chunks");
    }
    let nobody = ask(&mut next, &text, Some("book-prose"), 0.0);
    assert_eq!(nobody.reused_tokens, 0, "of another adapter nothing");
    let before = stats(&next).restored;
    drop(next);
    // What it found lies where it lay, for the run after it as well.
    let mut third = engine(store.path(), BackendChoice::Cpu);
    assert!(stats(&third).restored >= before + 18, "{before}, and nobody's: {:?}", stats(&third));
    for adapter in models {
        assert_eq!(ask(&mut third, &text, adapter, 0.0).reused_tokens, 288, "{adapter:?}: whole chunks");
    }
    assert_eq!(stats(&third).damaged, 0);
    drop(third);
    // Pages of another kind, or another room for them, are other pages.
    let swap = Some(SwapOptions::new(FILE / 2));
    let store = Some(store.path().into());
    let mut other = demo(&EngineOptions { store, swap, ..options(BackendChoice::Cpu) });
    other.reserve_kv(2, 512).expect("a small pool");
    assert_eq!(stats(&other).restored, 0);
    assert_eq!(ask(&mut other, &text, None, 0.0).reused_tokens, 0);
}

/// What is done to a file, and what that is called.
type Damage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));

#[test]
fn what_was_damaged_is_computed_again() {
    let store = tempfile::tempdir().expect("a folder");
    let mut first = engine(store.path(), BackendChoice::Cpu);
    let text = text(&first, 400);
    let before = ask(&mut first, &text, Some("rust-code"), 0.0);
    drop(first);
    let pages = store.path().join("swap/pages");
    let whole = std::fs::read(&pages).expect("it is there");
    let index = std::fs::read(store.path().join("swap/index")).expect("it is there");
    let half = whole.len() / 2;
    let damages: [Damage<'_>; 4] = [
        ("nothing", &|_| ()),
        ("a bit", &|bytes| bytes[5000] ^= 16),
        ("every page", &|bytes| bytes.iter_mut().for_each(|byte| *byte = !*byte)),
        ("the second half", &|bytes| bytes.truncate(half)),
    ];
    for (what, damage) in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&pages, bytes).expect("it can be written");
        std::fs::write(store.path().join("swap/index"), &index).expect("it can be written");
        let mut next = engine(store.path(), BackendChoice::Cpu);
        let after = ask(&mut next, &text, Some("rust-code"), 0.0);
        assert_eq!(after.tokens, before.tokens, "{what}");
        let SwapStats { read, damaged, restored, recomputed, .. } = stats(&next);
        assert_eq!((restored, after.reused_tokens), (25, 384), "{what}");
        // Some are computed because that is sooner, and all others that cannot be read.
        let damages = match what {
            "nothing" => 0..=0,
            "a bit" => 0..=1,
            _ => 10..=24,
        };
        assert!(damages.contains(&damaged), "{what}: {damaged} of {read}");
        assert_eq!(read + recomputed, 24, "{what}");
        assert!(damaged <= recomputed);
    }
}

/// On storage so slow that much is sooner computed: what is read comes layer by layer while that is.
#[test]
fn what_is_sooner_computed_than_read_is_computed_among_what_is_read() {
    for backend in all_backends() {
        let slow = FlashProfile { read: 20e6, write: 1e9, latency: Duration::from_micros(50) };
        let store = tempfile::tempdir().expect("a folder");
        let swap = Some(SwapOptions { bytes: FILE, profile: Some(slow) });
        let store = Some(store.path().to_path_buf());
        let mut engine = demo(&EngineOptions { store, swap, prefill_rows: 48, ..options(backend) });
        engine.reserve_kv(2, 512).expect("a small pool");
        let text = text(&engine, 480);
        for adapter in [None, Some("rust-code")] {
            let before = ask(&mut engine, &text, adapter, 0.0);
            empty(&mut engine);
            let had = stats(&engine);
            let after = ask(&mut engine, &text, adapter, 0.0);
            assert_eq!(after.reused_tokens, 464, "{backend:?}");
            let SwapStats { read, recomputed, damaged, .. } = stats(&engine);
            let back = (read - had.read, recomputed - had.recomputed);
            assert!(back.0 > 0 && back.1 > 3 && back.0 + back.1 == 29, "{backend:?}: {back:?}");
            assert_eq!(damaged, 0);
            assert_eq!(after.tokens, before.tokens, "{backend:?} {adapter:?}");
        }
    }
}

#[test]
fn what_the_machine_was_measured_to_take_says_what_is_computed() {
    let store = tempfile::tempdir().expect("a folder");
    let mut engine = engine(store.path(), BackendChoice::Cpu);
    let measure = engine.measure_switch().expect("it runs");
    let file = std::fs::read_dir(store.path().join("swap")).expect("a folder").find_map(|file| {
        let path = file.expect("a file").path();
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("costs-")).then_some(path)
    });
    let file = file.expect("it is kept");
    let kept = std::fs::read(&file).expect("it is there");
    let kept: SwitchMeasure = serde_json::from_slice(&kept).expect("whole");
    // But for the last digit of a number as text.
    let is_near = |(a, b): (f64, f64), (c, d): (f64, f64)| {
        (a - c).abs() <= 1e-12 * a.abs() && (b - d).abs() <= 1e-12 * b.abs()
    };
    assert!(is_near(kept.recompute, measure.recompute) && is_near(kept.read, measure.read), "{kept:?}");
    let text = text(&engine, 480);
    let before = ask(&mut engine, &text, None, 0.0);
    empty(&mut engine);
    let mut back = |costs: Option<&[u8]>| {
        match costs {
            Some(costs) => std::fs::write(&file, costs).expect("it is written"),
            None => std::fs::remove_file(&file).expect("it is there"),
        }
        engine.reserve_kv(2, 512).expect("a small pool");
        let after = ask(&mut engine, &text, None, 0.0);
        assert_eq!((after.tokens, after.reused_tokens), (before.tokens.clone(), 464));
        empty(&mut engine);
        let SwapStats { read, recomputed, .. } = stats(&engine);
        (read, recomputed)
    };
    let mut costs = |recompute, read| {
        let measure = SwitchMeasure { recompute, read, ..measure.clone() };
        back(Some(&serde_json::to_vec(&measure).expect("numbers")))
    };
    let dear = (1e3, 0.0);
    assert_eq!(costs((0.0, 1e-6), dear), (0, 29));
    assert_eq!(costs(dear, (0.0, 1e-12)), (29, 0));
    // What is no measure is none.
    let unmeasured = back(None);
    let mut unsound = serde_json::to_value(&measure).expect("numbers");
    unsound["read"][0] = (-1.0).into();
    for none in [b"{".to_vec(), unsound.to_string().into_bytes()] {
        assert_eq!(back(Some(&none)), unmeasured);
    }
}

#[test]
fn one_process_swaps_at_a_time_and_others_do_without() {
    let store = tempfile::tempdir().expect("a folder");
    let mut first = engine(store.path(), BackendChoice::Cpu);
    let mut second = engine(store.path(), BackendChoice::Cpu);
    assert_eq!(second.swap_stats(), None);
    let text = text(&first, 100);
    let answer = ask(&mut first, &text, None, 0.0);
    assert_eq!(ask(&mut second, &text, None, 0.0).tokens, answer.tokens);
}

#[test]
fn what_allows_a_loss_is_swapped_as_it_is_kept() {
    let store = tempfile::tempdir().expect("a folder");
    let mut engine = engine(store.path(), BackendChoice::Cpu);
    let text = text(&engine, 320);
    let exact = ask(&mut engine, &text, None, 0.0);
    let written = |engine: &Engine| engine.swap_stats().map_or(0, |stats| stats.written);
    let before = written(&engine);
    let first = ask(&mut engine, &text, Some("rust-code"), 0.05);
    empty(&mut engine);
    assert!(written(&engine) > before);
    let after = ask(&mut engine, &text, Some("rust-code"), 0.05);
    assert!(after.reused_tokens >= 304, "{}", after.reused_tokens);
    assert!(after.drift >= first.drift);
    empty(&mut engine);
    // Exact calls are not given any of it.
    let strict = ask(&mut engine, &text, Some("rust-code"), 0.0);
    assert_eq!(strict.drift, 0.0);
    assert_eq!(ask(&mut engine, &text, None, 0.0).tokens, exact.tokens);
}

#[test]
fn a_pool_that_is_full_of_what_is_being_written_waits_for_that() {
    let store = tempfile::tempdir().expect("a folder");
    let swap = Some(SwapOptions::new(FILE));
    let mut engine =
        demo(&EngineOptions { store: Some(store.path().into()), swap, ..options(BackendChoice::Cpu) });
    engine.reserve_kv(1, 320).expect("a small pool");
    let mut texts: Vec<Vec<u32>> = Vec::new();
    for first in 0..6 {
        let mut other = text(&engine, 300);
        other.iter_mut().for_each(|token| *token = (*token + first) % 512);
        texts.push(other);
    }
    let answers: Vec<Completion> = texts.iter().map(|text| ask(&mut engine, text, None, 0.0)).collect();
    for (text, answer) in texts.iter().zip(&answers) {
        let again = ask(&mut engine, text, None, 0.0);
        assert_eq!(again.tokens, answer.tokens);
        assert!(again.reused_tokens >= 288, "{} tokens, {:?}", again.reused_tokens, stats(&engine));
    }
}

#[test]
fn what_a_killed_app_had_stays_on_flash_until_somebody_calls() {
    let store = tempfile::tempdir().expect("a folder");
    let engine = engine(store.path(), BackendChoice::Cpu);
    let text = text(&engine, 200);
    let service = Service::start(engine, ServiceOptions::default()).expect("it starts");
    let app = service.app("mail", None).expect("there is a place");
    let context = app.new_context().expect("it begins");
    let options = CallOptions { max_tokens: 4, end_tokens: Some(Vec::new()), ..CallOptions::default() };
    let say = |tokens: &[u32]| {
        let asked = context.call(&Prompt::Tokens(tokens.to_vec()), &options).expect("it is taken");
        asked.wait().expect("it is answered").completion
    };
    say(&text);
    app.set_state(AppState::Killed).expect("it serves");
    // Idle work comes several times.
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(40));
        let memory = service.memory().expect("it serves");
        assert_eq!((memory.kv_in_use, memory.kv_cached), (0, 0), "{memory:?}");
        assert!(memory.kv_flash.held > 0, "{memory:?}");
    }
    service.app("mail", None).expect("it is there again");
    assert!(say(&[16]).reused_tokens >= 192);
    let stats = service.stats().expect("it serves").swap.expect("it swaps");
    assert!(stats.read + stats.recomputed >= 12, "{stats:?}");
}

#[test]
fn there_is_nothing_to_swap_to_without_a_store() {
    let swap = Some(SwapOptions::new(FILE));
    let refused = Engine::open(
        super::support::embedded(interleaf_demo_model::NAME, interleaf_demo_model::BASE),
        &EngineOptions { swap, ..options(BackendChoice::Cpu) },
        &mut |_| (),
    );
    let error = refused.map(|_| ()).expect_err("it is refused");
    assert!(matches!(error, EngineError::InvalidOption { option: "swap", .. }), "{error}");
    // Nor to a file that has no room for anything.
    let store = tempfile::tempdir().expect("a folder");
    let (store, swap) = (Some(store.path().into()), Some(SwapOptions::new(4096)));
    let mut engine = demo(&EngineOptions { store, swap, ..options(BackendChoice::Cpu) });
    let error = engine.reserve_kv(2, 512).expect_err("it is refused");
    assert!(error.to_string().contains("swap must be room for a chunk"), "{error}");
}
