//! Under `auto` calls that allow a loss go on on the CPU as exact ones do: what they read in another form than a forward
//! pass computes is computed again as exact pages, elsewhere.
//!
//! The device that fails here computes as the CPU does, so what is computed again is equal to the bit to what was never
//! encoded.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use interleaf_contract::{BackendError, Bits, JointCodec, Numerics, PageCodec};
use interleaf_demo_model as demo;
use interleaf_model::{
    Calibration, Directions, HalfCalibration, JointCalibration, Ladder, LayerCalibration, MadeFrom, Resting,
    Rung,
};
use interleaf_runtime::{
    BackendChoice, Completion, Engine, EngineOptions, Event, Feed, FinishReason, GpuGate, KeyPath, Request,
    RowKind, SamplingOptions, SequenceHandle, Source, Store, Want,
};
use interleaf_tests::backends::{self, Boxed};
use interleaf_tests::tolerance::assert_bits;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failing::{Call, Failing, lost};
use crate::measure::alone;

const BUDGET: f32 = 1e-3;

/// Whole chunks of a shared beginning.
const SHARED: usize = 12 * 16;

/// What refuses the first call of a kind after so many others of it, and all calls from then on; nothing until it is set.
#[derive(Clone, Default)]
struct Trap(Arc<Mutex<Option<(Call, usize)>>>);

impl Trap {
    fn set(&self, call: Call, after: usize) {
        *self.0.lock().expect("whole") = Some((call, after));
    }

    fn fault(&self) -> impl FnMut(Call) -> Result<(), BackendError> + Send + 'static {
        let (trap, mut is_lost) = (Self::clone(self), false);
        move |call| {
            let mut set = trap.0.lock().expect("whole");
            if let Some((_, left)) = set.as_mut().filter(|(awaited, _)| *awaited == call) {
                is_lost = is_lost || *left == 0;
                *left = left.saturating_sub(1);
            }
            if is_lost && call != Call::Results { Err(lost()) } else { Ok(()) }
        }
    }
}

/// The demo model with three adapters on a device that fails, and room for so many chunks.
fn engine(trap: &Trap, chunks: usize) -> Engine {
    engine_on(backends::cpu(1, Numerics::ActQ8_0), trap, chunks)
}

fn engine_on(device: Boxed, trap: &Trap, chunks: usize) -> Engine {
    engine_with(device, trap, chunks, None)
}

fn engine_with(device: Boxed, trap: &Trap, chunks: usize, store: Option<PathBuf>) -> Engine {
    let options = EngineOptions { store, ..EngineOptions::default() };
    engine_as(device, trap, chunks, options)
}

fn engine_as(device: Boxed, trap: &Trap, chunks: usize, options: EngineOptions) -> Engine {
    let options = EngineOptions { backend: BackendChoice::Auto, threads: 1, prefill_rows: 24, ..options };
    let device = Failing::boxed(device, trap.fault());
    let source = Source::Embedded { name: demo::NAME, files: demo::BASE };
    let mut engine = Engine::open_on(device, source, &options, &mut |_| ()).expect("it loads");
    let sharing = demo::ADAPTERS.iter().filter(|(name, _)| *name == SHARING);
    for &(name, files) in demo::ADAPTERS[..2].iter().chain(sharing) {
        engine.register_adapter(name, &Source::Embedded { name, files }).expect("its adapters load");
    }
    engine.reserve_kv(chunks, 16).expect("a small pool");
    engine
}

/// Leaves the first layer as the base has it.
const SHARING: &str = "cargo-toml";

fn models() -> [Option<&'static str>; 3] {
    [None, Some(demo::ADAPTERS[0].0), Some(demo::ADAPTERS[1].0)]
}

/// A beginning that all have in common, and some tokens of one's own.
fn prompt(engine: &Engine, own: u32) -> Vec<u32> {
    let text =
        "A trait tells the compiler what a type can do. A vector owns its elements and grows. ".repeat(20);
    let tokens = engine.tokenizer("a test").expect("it has one").encode(&text, true).expect("plain text");
    tokens[..SHARED].iter().copied().chain((0..20).map(|i| 300 + 7 * own + i)).collect()
}

/// Requests of the base and the adapters, the later ones with longer answers.
fn requests(engine: &Engine, own: u32, drift: f32) -> Vec<Request> {
    requests_of(models(), engine, own, drift)
}

fn requests_of(models: [Option<&str>; 3], engine: &Engine, own: u32, drift: f32) -> Vec<Request> {
    let request = |(adapter, more): (Option<&str>, usize)| Request {
        prompt: prompt(engine, own),
        adapter: adapter.map(str::to_owned),
        max_tokens: 6 + 4 * more,
        sampling: SamplingOptions::default(),
        stop: Vec::new(),
        end_tokens: Vec::new(),
        drift,
    };
    models.into_iter().zip(0..).map(request).collect()
}

/// Answers, whose text is all told of as it comes.
fn answers(engine: &mut Engine, requests: &[Request]) -> Vec<Completion> {
    let mut texts = vec![String::new(); requests.len()];
    let completions = engine.generate(requests, &mut |event| {
        if let Event::Text { request, text, .. } = event {
            texts[request].push_str(&text);
        }
        ControlFlow::Continue(())
    });
    let completions = completions.expect("it answers");
    for ((completion, told), request) in completions.iter().zip(&texts).zip(requests) {
        assert_eq!(completion.text, *told);
        assert_eq!((completion.reason, completion.tokens.len()), (FinishReason::Length, request.max_tokens));
    }
    completions
}

/// An engine whose shared beginning is encoded, for the base and the adapters over it.
fn warm(trap: &Trap, chunks: usize) -> Engine {
    warmed(engine(trap, chunks))
}

fn warmed(engine: Engine) -> Engine {
    warmed_of(models(), engine)
}

fn warmed_of(models: [Option<&str>; 3], mut engine: Engine) -> Engine {
    for request in requests_of(models, &engine, 0, BUDGET) {
        answers(&mut engine, &[request]);
    }
    assert!(engine.memory().kv_encoded > 0);
    engine
}

/// What exact calls are answered, whatever happened before.
fn is_exact(engine: &mut Engine) {
    let tokens = |completions: Vec<Completion>| completions.into_iter().map(|c| c.tokens).collect::<Vec<_>>();
    let requests = requests(engine, 3, 0.0);
    let expected = tokens(answers(&mut self::engine(&Trap::default(), 80), &requests));
    assert_eq!(tokens(answers(engine, &requests)), expected);
}

#[test]
fn answers_over_encoded_pages_go_on_where_they_were() {
    let _alone = alone();
    // While prompts are read, at the first tokens, among later ones; and on a GPU, if there is one.
    let cpu = || backends::cpu(1, Numerics::ActQ8_0);
    let devices = [0, 2, 5, 9].map(|steps| (cpu(), steps)).into_iter();
    for (device, steps) in devices.chain(backends::gpu().map(|gpu| (gpu, 5))) {
        let trap = Trap::default();
        let mut engine = warmed(engine_on(device, &trap, 80));
        let requests = requests(&engine, 5, BUDGET);
        trap.set(Call::Step, steps);
        let completions = answers(&mut engine, &requests);
        assert_eq!(engine.backend().name, "cpu");
        for (i, Completion { reused_tokens, drift, .. }) in completions.into_iter().enumerate() {
            // Who begins after the loss finds nothing.
            let found = i == 0 || steps > 4 || reused_tokens > 0;
            assert_eq!(
                (reused_tokens, drift > 0.0),
                if found { (SHARED, true) } else { (0, false) },
                "{steps}"
            );
            assert!(drift <= BUDGET, "{drift}");
        }
        assert_eq!(engine.memory().kv_in_use, 0, "every page is free again");
        is_exact(&mut engine);
        // And it encodes again.
        let again = answers(&mut engine, &requests);
        assert!(again.iter().all(|completion| completion.drift <= BUDGET));
        assert!(engine.memory().kv_encoded > 0);
    }
}

/// Keys that are decoded for an answer are lost with the device, be it while they are decoded, while it is measured whether that
/// pays, or while they are read.
#[test]
fn materialised_keys_go_with_their_device() {
    let _alone = alone();
    for (keys, call, after) in [
        (KeyPath::Materialised, Call::Recode, 0),
        (KeyPath::Materialised, Call::Step, 3),
        (KeyPath::Measured, Call::Recode, 0),
        (KeyPath::Measured, Call::Recode, 2),
        (KeyPath::Measured, Call::Step, 0),
        (KeyPath::Measured, Call::Step, 3),
    ] {
        let trap = Trap::default();
        let options = EngineOptions { keys, ..EngineOptions::default() };
        let mut engine = warmed(engine_as(backends::cpu(1, Numerics::ActQ8_0), &trap, 80, options));
        let request = Request { max_tokens: 40, ..requests(&engine, 5, BUDGET).remove(1) };
        trap.set(call.clone(), after);
        let completion = answers(&mut engine, &[request]).remove(0);
        assert_eq!(engine.backend().name, "cpu", "{keys:?}, {call:?}");
        let keys_read = completion.keys;
        // Who had begun to read them had them until then; who had not finds nothing that is encoded.
        assert_eq!(keys_read.given_up, keys_read.materialised, "{keys:?}, {call:?}: {keys_read:?}");
        assert_eq!(keys_read.materialised > 0, keys == KeyPath::Materialised && call == Call::Step);
        assert!(completion.drift <= BUDGET);
        assert_eq!((engine.memory().kv_in_use, engine.memory().kv_keys), (0, 0));
        is_exact(&mut engine);
    }
}

/// A store with calibrations of the adapters that nothing was fitted for: the first channels are what is kept of a difference,
/// which is said to cost next to nothing.
fn calibrated() -> tempfile::TempDir {
    let at_rest = JointCodec { rank: 1, bits: Bits::Four };
    calibrated_with(&[Resting { codec: at_rest, kl: 1e-6, factor: 1e-6, bound: 1e-6 }])
}

/// The same with other measures of what is at rest.
fn calibrated_with(rest: &[Resting]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::new(Some(folder.path().to_owned()));
    let engine = engine(&Trap::default(), 2);
    let (layers, width) = (engine.config().layers, engine.config().kv_heads * engine.config().head_dim);
    let directions = |rank: usize| Directions {
        rows: (0..rank * width).map(|i| if i % (width + 1) == 0 { 1.0 } else { 0.0 }).collect(),
        deviations: vec![1.0; rank],
    };
    let half = HalfCalibration {
        mean: vec![0.0; width],
        basis: directions(16),
        prediction: vec![0.0; (2 * width + 1) * width],
        residual: directions(1),
    };
    let layer = LayerCalibration { profile: vec![1.0; width], k: half.clone(), v: half };
    let (outputs, hidden) = (2 * layers * width, engine.config().hidden_size);
    let joint = JointCalibration {
        down: vec![0.0; outputs + hidden + 1],
        up: vec![0.0; outputs],
        scales: vec![1.0; 2 * layers],
        residual: Directions {
            rows: (0..outputs).map(|i| if i == 0 { 1.0 } else { 0.0 }).collect(),
            deviations: vec![1.0],
        },
    };
    let codec = PageCodec::named("low-rank-16-int4");
    let rung = Rung { layers: vec![[codec; 2]; layers], kl: 1e-6, factor: 1e-6, bound: 1e-6 };
    for adapter in engine.adapters() {
        let calibration = Calibration {
            touches: Vec::new(),
            model: engine.model_digest(),
            adapter: adapter.digest,
            made_from: MadeFrom {
                text: "nothing".into(),
                text_digest: None,
                window_tokens: 32,
                fitted: 1,
                held_back: 1,
                prefix_tokens: 16,
            },
            layers: vec![layer.clone(); layers],
            joint: Some(joint.clone()),
            measured: Vec::new(),
            ladder: Ladder { sensitivities: vec![[1.0; 2]; layers], rungs: vec![rung.clone()] },
            rest: rest.to_vec(),
        };
        let file = store.keep_calibration(&calibration).expect("room on the disk").expect("it is kept");
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        let source = Source::dir(file.parent().expect("a folder"));
        let read = Calibration::read(&source, name, engine.config(), engine.model_digest(), adapter.digest);
        assert_eq!(read.expect("it is read"), calibration);
    }
    folder
}

/// Bases go with the adapters, under the names that they had, whatever came and went before.
#[test]
fn calibrated_pages_are_decoded_and_encoded_on_the_next_device() {
    let _alone = alone();
    let folder = calibrated();
    let trap = Trap::default();
    let device = backends::cpu(1, Numerics::ActQ8_0);
    let mut engine = engine_with(device, &trap, 80, Some(folder.path().to_owned()));
    let is_calibrated =
        |engine: &Engine| engine.kv_by_codec().iter().any(|(codec, _)| codec == "low-rank-16-int4");
    engine = warmed(engine);
    assert!(is_calibrated(&engine) && engine.memory().kv_bases > 0);
    // A larger pool has other tables, and bases of other names.
    engine.reserve_kv(90, 16).expect("a larger pool");
    assert_eq!(engine.memory().kv_bases, 0);
    engine = warmed(engine);
    assert!(is_calibrated(&engine));
    trap.set(Call::Step, 4);
    let requests = requests(&engine, 5, BUDGET);
    answers(&mut engine, &requests);
    assert_eq!(engine.backend().name, "cpu");
    is_exact(&mut engine);
    let again = answers(&mut engine, &requests);
    assert!(again.iter().all(|completion| completion.drift <= BUDGET));
    assert!(is_calibrated(&engine));
}

/// Where the device is lost while a cache at rest is woken, or while it is open, what was there is computed again; and goes to
/// rest again where there is time.
#[test]
fn what_is_at_rest_is_computed_again_on_the_next_device() {
    let _alone = alone();
    let folder = calibrated();
    // The first page that is read for it, one among others, what is written; and the steps after that.
    let losses = [(Call::Pages, 0), (Call::Pages, 7), (Call::Pages, 24), (Call::Step, 1)];
    let [base, first, _] = models();
    let all = [models(), [base, first, Some(SHARING)]];
    for (models, (call, after)) in
        all.iter().flat_map(|models| losses.iter().map(move |loss| (*models, loss)))
    {
        let (trap, device) = (Trap::default(), backends::cpu(1, Numerics::ActQ8_0));
        let store = Some(folder.path().to_owned());
        let options = EngineOptions { store, at_rest: true, ..EngineOptions::default() };
        let mut engine = warmed_of(models, engine_as(device, &trap, 80, options));
        let idle = |engine: &mut Engine| while engine.tend(64).expect("it runs") > 0 {};
        idle(&mut engine);
        assert!(engine.memory().kv_at_rest > 0);
        let requests = requests_of(models, &engine, 5, BUDGET);
        trap.set(call.clone(), *after);
        answers(&mut engine, &requests);
        assert_eq!(engine.backend().name, "cpu", "{call:?} {after}");
        assert_eq!((engine.memory().kv_in_use, engine.memory().kv_at_rest), (0, 0));
        is_exact(&mut engine);
        answers(&mut engine, &requests);
        idle(&mut engine);
        assert!(engine.memory().kv_at_rest > 0);
        let again = answers(&mut engine, &requests);
        assert!(again.iter().all(|completion| completion.drift <= BUDGET && completion.reused_tokens > 0));
    }
}

/// What is warned of.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl std::io::Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("whole").push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// All that is warned of meanwhile.
fn warnings_of(work: impl FnOnce()) -> Vec<String> {
    let warnings = Warnings::default();
    let writer = warnings.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let guard = subscriber.set_default();
    work();
    drop(guard);
    let told = warnings.0.lock().expect("whole");
    told.clone()
}

/// Says to whom asked for pages at rest that an adapter has none: without a calibration, and with one that has measured nothing
/// for that. Once of each, and it fails no call.
#[test]
fn what_cannot_rest_is_said_once() {
    let _alone = alone();
    let nothing = tempfile::tempdir().expect("a folder");
    let without = calibrated_with(&[]);
    for (folder, why) in [(&nothing, "it has no calibration"), (&without, "measured no form for that")] {
        let store = Some(folder.path().to_owned());
        let told = warnings_of(|| {
            let options = EngineOptions { store, at_rest: true, ..EngineOptions::default() };
            let device = backends::cpu(1, Numerics::ActQ8_0);
            let mut engine = warmed(engine_as(device, &Trap::default(), 80, options));
            while engine.tend(64).expect("it runs") > 0 {}
            assert_eq!(engine.memory().kv_at_rest, 0);
            let requests = requests(&engine, 5, BUDGET);
            answers(&mut engine, &requests);
        });
        assert!(told.iter().all(|line| line.contains(why)), "{told:?}");
        assert_eq!(told.len(), models().into_iter().flatten().count(), "{told:?}");
    }
}

/// What is at rest cannot be woken once its map is not in the store any more, and nothing follows it there. That is said once of
/// each adapter, and fails no call.
#[test]
fn a_map_that_is_gone_is_missed_once() {
    let _alone = alone();
    let folder = calibrated();
    let options =
        EngineOptions { store: Some(folder.path().to_owned()), at_rest: true, ..EngineOptions::default() };
    let device = backends::cpu(1, Numerics::ActQ8_0);
    let mut engine = warmed(engine_as(device, &Trap::default(), 80, options));
    let idle = |engine: &mut Engine| while engine.tend(64).expect("it runs") > 0 {};
    idle(&mut engine);
    assert!(engine.memory().kv_at_rest > 0);
    std::fs::remove_dir_all(folder.path().join("calibrations")).expect("it is there");
    let told = warnings_of(|| {
        for own in 5..8 {
            let requests = requests(&engine, own, BUDGET);
            answers(&mut engine, &requests);
            idle(&mut engine);
            assert_eq!(engine.memory().kv_at_rest, 0);
        }
    });
    let adapters = models().into_iter().flatten().count();
    assert!(told.iter().all(|line| line.contains("not in the store any more")), "{told:?}");
    assert_eq!(told.len(), adapters, "{told:?}");
    is_exact(&mut engine);
}

/// Half of what is in a store with calibrations.
fn damaged() -> tempfile::TempDir {
    let folder = calibrated();
    let calibrations = folder.path().join("calibrations");
    let files = std::fs::read_dir(calibrations).expect("a folder").flat_map(|model| {
        std::fs::read_dir(model.expect("readable").path())
            .expect("a folder")
            .map(|file| file.expect("readable"))
    });
    for file in files {
        let bytes = std::fs::read(file.path()).expect("readable");
        std::fs::write(file.path(), &bytes[..bytes.len() / 2]).expect("room on the disk");
    }
    folder
}

/// A calibration that is no good is said so and does without.
#[test]
fn a_calibration_that_cannot_be_used_fails_no_call() {
    let _alone = alone();
    let folder = damaged();
    let device = backends::cpu(1, Numerics::ActQ8_0);
    let engine = warmed(engine_with(device, &Trap::default(), 80, Some(folder.path().to_owned())));
    assert!(engine.kv_by_codec().iter().all(|(codec, _)| !codec.starts_with("low-rank")));
}

/// Where a damaged calibration is told of, tries to suspend the GPU from another thread, as an app does that goes to the
/// background.
#[derive(Clone)]
struct Suspending {
    gate: GpuGate,
    /// Whether it could, each time.
    done: Arc<Mutex<Vec<bool>>>,
}

impl std::io::Write for Suspending {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (gate, (tell, told)) = (self.gate.clone(), mpsc::channel());
        std::thread::spawn(move || {
            gate.suspend();
            gate.resume();
            // Nobody listens any more where it took too long.
            let _ = tell.send(());
        });
        let is_done = told.recv_timeout(Duration::from_secs(20)).is_ok();
        self.done.lock().expect("whole").push(is_done);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// To find an adapter's calibration every weight may have to be read; the GPU is not held meanwhile.
#[test]
fn the_gpu_can_be_suspended_while_a_calibration_is_looked_for() {
    let _alone = alone();
    let folder = damaged();
    for generates in [false, true] {
        let device = backends::cpu(1, Numerics::ActQ8_0);
        let mut engine = engine_with(device, &Trap::default(), 80, Some(folder.path().to_owned()));
        let gate = engine.gpu_gate().expect("it says that it is a GPU");
        let sink = Suspending { gate, done: Arc::default() };
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .with_writer(move || writer.clone())
            .finish();
        let guard = subscriber.set_default();
        let request = requests(&engine, 0, BUDGET).remove(1);
        if generates {
            engine.generate(&[request], &mut |_| ControlFlow::Continue(())).expect("it answers");
        } else {
            let adapter = request.adapter.as_deref();
            engine.resume_sequence(adapter, &request.prompt, BUDGET).expect("it opens");
        }
        drop(guard);
        assert_eq!(*sink.done.lock().expect("whole"), [true], "{generates}");
    }
}

/// Exact pages of all do not fit at once: who finds no room waits for the others.
#[test]
fn exact_pages_take_turns_where_encoded_ones_had_room() {
    let _alone = alone();
    let trap = Trap::default();
    let mut engine = warm(&trap, 34);
    let requests = requests(&engine, 5, BUDGET);
    trap.set(Call::Step, 4);
    let completions = answers(&mut engine, &requests);
    assert_eq!(engine.backend().name, "cpu");
    assert!(completions.iter().all(|completion| completion.reused_tokens == SHARED));
    assert_eq!(engine.memory().kv_in_use, 0);
    is_exact(&mut engine);
}

/// The first answer ends, and its pages are to be encoded or what that costs is to be measured, while the next step of the
/// others is under way.
#[test]
fn a_device_may_fail_while_it_encodes() {
    let _alone = alone();
    for call in [Call::Recode, Call::Compare] {
        for after in [0, 1, 5] {
            let trap = Trap::default();
            let mut engine = engine(&trap, 80);
            trap.set(call.clone(), after);
            let requests = requests(&engine, 5, BUDGET);
            let completions = answers(&mut engine, &requests);
            assert_eq!(engine.backend().name, "cpu", "{call:?}");
            // Nothing was read that had lost anything.
            assert!(completions.iter().all(|completion| completion.drift == 0.0));
            let exact: Vec<Request> =
                requests.iter().map(|request| Request { drift: 0.0, ..request.clone() }).collect();
            let expected = answers(&mut self::engine(&Trap::default(), 80), &exact);
            for (found, expected) in completions.iter().zip(&expected) {
                assert_eq!(found.tokens, expected.tokens, "{call:?} {after}");
            }
            assert_eq!(engine.memory().kv_in_use, 0);
            is_exact(&mut engine);
        }
    }
}

/// What is computed again is exact: what comes after it is to the bit as if nothing had ever been encoded. A sequence may be
/// cut back meanwhile, behind or before what was encoded.
#[test]
fn sequences_are_computed_again_as_exact_ones() {
    let _alone = alone();
    let feed = |engine: &mut Engine, sequence: SequenceHandle, tokens: &[u32], want: Want| {
        let feed = Feed { sequence, tokens, kind: RowKind::Prompt, want };
        engine.feed(&[feed]).expect("it runs").remove(0).logits
    };
    for adapter in models() {
        for kept in [SHARED + 20, SHARED + 3, SHARED - 16, SHARED - 25, 7] {
            let trap = Trap::default();
            let mut lossy = warm(&trap, 80);
            let tokens = prompt(&lossy, 5);
            let (sequence, cached) = lossy.resume_sequence(adapter, &tokens, BUDGET).expect("it opens");
            assert_eq!(cached, SHARED, "{adapter:?}");
            feed(&mut lossy, sequence, &tokens[SHARED..], Want::Nothing);
            trap.set(Call::Step, 0);
            // Of another sequence, which has nothing.
            let other = lossy.open_sequence(adapter, &tokens).expect("registered");
            let first = feed(&mut lossy, other, &tokens[..9], Want::Logits);
            assert_eq!(lossy.backend().name, "cpu");
            lossy.truncate_sequence(sequence, kept).expect("open");
            let found = feed(&mut lossy, sequence, &tokens[..9], Want::Logits);
            let keys = lossy.read_kv(sequence, 0).expect("open").0;

            let mut exact = engine(&Trap::default(), 80);
            let cold = exact.open_sequence(adapter, &tokens).expect("registered");
            assert_bits("of another", &feed(&mut exact, cold, &tokens[..9], Want::Logits), &first);
            let cold = exact.open_sequence(adapter, &tokens).expect("registered");
            feed(&mut exact, cold, &tokens[..kept], Want::Nothing);
            let label = format!("{adapter:?}, {kept} kept");
            assert_bits(&label, &feed(&mut exact, cold, &tokens[..9], Want::Logits), &found);
            assert_bits(&label, &exact.read_kv(cold, 0).expect("open").0, &keys);
            for open in [sequence, other] {
                lossy.close_sequence(open).expect("open");
            }
            assert_eq!(lossy.memory().kv_in_use, 0, "{label}");
        }
    }
}
