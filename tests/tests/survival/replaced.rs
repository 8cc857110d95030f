//! Files of adapters that are deleted, cut off, written over where they lie or replaced while calls under them run, and the pool is so
//! small that adapters come and go: an answer is that of the adapter that the call was taken under, or an error says that it is not to
//! be had.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use interleaf_demo_model as demo;
use interleaf_runtime::{Engine, EngineError, EngineOptions, Prompt, Service, ServiceError, Source};
use interleaf_tests::data::Random;

use super::rig::{Alone, call, count, end, options, source, start, tokens};

/// Adapters whose files something is done to.
const HARMED: usize = 3;
const CALLERS: usize = 3;
const ANSWER: usize = 8;

fn tensors(folder: &Path, adapter: usize) -> PathBuf {
    folder.join(demo::ADAPTERS[adapter].0).join("adapter_model.safetensors")
}

/// The file of factors as it should be.
fn whole(adapter: usize) -> &'static [u8] {
    let (_, files) = demo::ADAPTERS[adapter];
    files.iter().find(|(name, _)| name.ends_with(".safetensors")).expect("it has factors").1
}

fn write_all(folder: &Path, adapter: usize) {
    let (name, files) = demo::ADAPTERS[adapter];
    std::fs::create_dir_all(folder.join(name)).expect("a folder");
    files
        .iter()
        .for_each(|(file, bytes)| std::fs::write(folder.join(name).join(file), bytes).expect("a file"));
}

/// Does something to a file, and after a while puts it right again.
fn harm(folder: &Path, random: &mut Random) {
    let adapter = random.below(HARMED);
    let file = tensors(folder, adapter);
    let whole = whole(adapter);
    match random.below(5) {
        0 => std::fs::remove_file(&file).expect("it goes"),
        1 => std::fs::write(&file, &whole[..random.below(whole.len())]).expect("it is cut"),
        2 => {
            let mut bytes = whole.to_vec();
            let half = bytes.len() / 2;
            bytes[half..].iter_mut().for_each(|byte| *byte ^= 1);
            std::fs::write(&file, bytes).expect("it is written over");
        }
        3 => std::fs::write(&file, self::whole((adapter + 1) % demo::ADAPTERS.len())).expect("it is another"),
        _ => std::fs::write(&file, b"").expect("it is empty"),
    }
    std::thread::sleep(std::time::Duration::from_millis(random.below(30) as u64));
    std::fs::write(&file, whole).expect("it is put right");
    std::thread::sleep(std::time::Duration::from_millis(random.below(30) as u64));
}

/// What was asked for and what came.
#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    not_loaded: usize,
}

/// Calls under the harmed adapters and others. `replaced` may be either of two adapters, which take turns.
fn caller(service: &Service, number: usize, calls: usize, expected: &Expected, seen: &Mutex<Seen>) {
    let random = &mut Random::new(77 + number as u64);
    let app = service.app(&format!("app {number}"), None).expect("there is a place");
    for _ in 0..calls {
        let place = random.below(expected.names.len());
        let prompt = random.below(expected.prompts.len());
        let context = app.new_context().expect("it begins");
        let asked = context.call(
            &Prompt::Tokens(expected.prompts[prompt].clone()),
            &call(Some(expected.names[place]), ANSWER),
        );
        match end(asked.expect("it is taken")) {
            Ok(answer) => {
                let said = &answer.completion.tokens;
                let right = &expected.answers[place][prompt];
                assert!(right.contains(said), "{}: {said:?}, expected {right:?}", expected.names[place]);
                seen.lock().expect("whole").answers += 1;
            }
            Err(ServiceError::Engine(error)) => match &*error {
                EngineError::AdapterNotLoaded { name, .. } => {
                    let is_harmed = demo::ADAPTERS[..HARMED].iter().any(|(harmed, _)| harmed == name);
                    assert!(is_harmed, "nothing was done to {name}: {error}");
                    seen.lock().expect("whole").not_loaded += 1;
                }
                _ => panic!("{error}"),
            },
            Err(error) => panic!("{error}"),
        }
        context.delete().expect("it is there");
    }
}

struct Expected {
    names: Vec<&'static str>,
    prompts: Vec<Vec<u32>>,
    /// By name and prompt, what may be said.
    answers: Vec<Vec<Vec<Vec<u32>>>>,
}

const REPLACED: &str = "replaced";

fn expected() -> Expected {
    let random = &mut Random::new(5);
    let prompts: Vec<Vec<u32>> = (0..4).map(|_| tokens(random, 30)).collect();
    let mut alone = Alone::new();
    let mut says = |name: &str| -> Vec<Vec<u32>> {
        prompts.iter().map(|prompt| alone.says(prompt, Some(name), ANSWER)).collect()
    };
    let mut names: Vec<&str> = demo::ADAPTERS.iter().map(|(name, _)| *name).collect();
    let mut answers: Vec<Vec<Vec<Vec<u32>>>> =
        names.iter().map(|name| says(name).into_iter().map(|said| vec![said]).collect()).collect();
    let [one, other] = [4, 5].map(|adapter| says(demo::ADAPTERS[adapter].0));
    names.push(REPLACED);
    answers.push(one.into_iter().zip(other).map(|(one, other)| vec![one, other]).collect());
    Expected { names, prompts, answers }
}

#[test]
fn what_is_done_to_files_of_adapters_costs_their_calls_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let expected = expected();
    let mut engine = Engine::open(
        source(demo::NAME, demo::BASE),
        &EngineOptions { pool_adapters: true, ..options() },
        &mut |_| (),
    )
    .expect("the model loads");
    for (adapter, (name, _)) in demo::ADAPTERS.iter().enumerate() {
        write_all(folder.path(), adapter);
        engine.register_adapter(name, &Source::Dir(folder.path().join(name))).expect("it loads");
    }
    let of = |adapter: usize| Source::Dir(folder.path().join(demo::ADAPTERS[adapter].0));
    engine.register_adapter(REPLACED, &of(4)).expect("it loads");
    // Room for few of them beside what calls compute.
    engine.reserve_kv(1, 448).expect("a small pool");
    let service = start(engine);
    let (seen, is_over) = (Mutex::new(Seen::default()), AtomicBool::new(false));
    let calls = count("INTERLEAF_ADAPTER_CALLS", 60);
    let replaced = std::thread::scope(|scope| {
        let (service, expected, seen, is_over) = (&service, &expected, &seen, &is_over);
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| scope.spawn(move || caller(service, number, calls, expected, seen)))
            .collect();
        let path = folder.path();
        let harms = scope.spawn(move || {
            let random = &mut Random::new(8);
            while !is_over.load(Ordering::Relaxed) {
                harm(path, random);
            }
        });
        let replaces = scope.spawn(move || {
            let mut replaced = 0;
            while !is_over.load(Ordering::Relaxed) {
                service.replace_adapter(REPLACED, of(4 + (replaced + 1) % 2)).expect("it is replaced");
                replaced += 1;
                std::thread::sleep(std::time::Duration::from_millis(7));
            }
            replaced
        });
        let ended: Vec<_> = callers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        harms.join().expect("files can be written");
        ended.into_iter().for_each(|ended| ended.expect("no caller has found fault"));
        replaces.join().expect("it is replaced")
    });
    let seen = seen.into_inner().expect("whole");
    // Whether or not a load met a harmed file until now, this one does.
    service.trim_memory(interleaf_runtime::TrimLevel::Warning).expect("it serves");
    let (harmed, _) = demo::ADAPTERS[0];
    std::fs::write(folder.path().join(harmed).join("adapter_model.safetensors"), b"no tensors")
        .expect("a file");
    let context = service.app("app 0", None).expect("there is a place").new_context().expect("it begins");
    let asked = context.call(&Prompt::Tokens(expected.prompts[0].clone()), &call(Some(harmed), ANSWER));
    match end(asked.expect("it is taken")) {
        Err(ServiceError::Engine(error)) => {
            assert!(
                matches!(&*error, EngineError::AdapterNotLoaded { name, .. } if name == harmed),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    let mut engine = service.stop().expect("nothing has panicked");
    println!("{seen:?}, replaced {replaced} times, {:?}", engine.adapter_stats());
    assert!(seen.answers > calls && engine.adapter_stats().unloads > 6, "{seen:?}");
    assert!(replaced > 1);
    engine.check_pages().expect("everything fits together");
    engine.trim_memory(interleaf_runtime::TrimLevel::Warning).expect("nothing fails");
    let memory = engine.memory();
    assert_eq!((memory.kv_in_use, memory.kv_cached, memory.kv_adapters), (0, 0, 0), "{memory:?}");
}
