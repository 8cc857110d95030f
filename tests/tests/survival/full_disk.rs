//! A disk that is full, and has room again: answers go on and say that they are not durable, that is told once, and what could not be
//! written is written later.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use interleaf_runtime::{Context, Engine, Prompt, Service, ServiceError, TrimLevel};
use interleaf_tests::data::Random;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::rig::{Alone, call, end, engine, start, swapping, tokens};

/// Set where the test runs in a namespace of its own, in which it may mount.
const OWN_NAMESPACE: &str = "INTERLEAF_OWN_NAMESPACE";
/// Of each call.
const PROMPT: usize = 100;
const ANSWER: usize = 5;

const NAME: &str = "full_disk::a_full_disk_costs_durability_alone_and_that_is_said_once";

/// What the library warned of, by any thread.
static WARNINGS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Warnings;

impl std::io::Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        WARNINGS.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn warnings_of(what: &str) -> usize {
    let all = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&all).lines().filter(|line| line.contains(what)).count()
}

/// A small disk of its own.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Option<Self> {
        let is_mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(at)
            .status()
            .is_ok_and(|status| status.success());
        is_mounted.then(|| Self(at.into()))
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let filler = self.0.join("filler");
        let mut bytes = std::fs::read(&filler).unwrap_or_default();
        let mut piece = 1 << 20;
        while piece > 0 {
            bytes.resize(bytes.len() + piece, 7);
            if std::fs::write(&filler, &bytes).is_err() {
                bytes.truncate(bytes.len() - piece);
                piece /= 2;
            }
        }
        let _ = std::fs::write(&filler, &bytes);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("it is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Runs this test where it may mount: in a user namespace. Says whether that was possible.
fn run_in_own_namespace() -> bool {
    if std::env::var_os(OWN_NAMESPACE).is_some() {
        return false;
    }
    let may = Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success());
    if may {
        let own = std::env::current_exe().expect("it runs");
        let status = Command::new("unshare")
            .arg("-rm")
            .arg(own)
            .args(["--exact", NAME, "--nocapture"])
            .env(OWN_NAMESPACE, "1")
            .status()
            .expect("it starts");
        assert!(status.success(), "{status}");
    }
    may
}

struct Talk {
    alone: Alone,
    random: Random,
    text: Vec<u32>,
}

impl Talk {
    /// One call, whose answer is right. Says whether it is durable.
    fn on(&mut self, service: &Service, context: &Context, adapter: Option<&str>) -> bool {
        let prompt = tokens(&mut self.random, PROMPT);
        let generation =
            context.call(&Prompt::Tokens(prompt.clone()), &call(adapter, ANSWER)).expect("it is taken");
        let answer = end(generation).expect("it is answered");
        self.text.extend(prompt);
        assert_eq!(answer.completion.tokens, self.alone.says(&self.text, adapter, ANSWER));
        self.text.extend(answer.completion.tokens);
        assert_eq!(context.tokens().expect("it is there"), self.text);
        service.trim_memory(TrimLevel::Warning).expect("it serves");
        answer.is_durable
    }
}

fn written(engine: &Engine) -> (u64, u64) {
    engine.swap_stats().map_or((0, 0), |stats| (stats.written, stats.unwritten))
}

#[test]
fn a_full_disk_costs_durability_alone_and_that_is_said_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = Disk::mount(folder.path()) else {
        if !run_in_own_namespace() {
            let is_required = std::env::var_os("INTERLEAF_REQUIRE_FULL_DISK").is_some();
            assert!(!is_required, "no small tmpfs can be mounted");
            println!("SKIPPED: a full disk: expected to be allowed to mount a small tmpfs, or `unshare -rm`");
        }
        return;
    };
    let _ = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(LevelFilter::WARN)
        .with_writer(|| Warnings)
        .finish()
        .try_init();
    let store = disk.0.join("store");
    let mut talk = Talk { alone: Alone::new(), random: Random::new(4), text: Vec::new() };
    let service = start(engine(&swapping(&store), 2, 2048));
    let app = service.app("mail", None).expect("there is a place");
    let context = app.new_context().expect("it begins");
    let id = context.id();
    assert!(talk.on(&service, &context, None));
    let durable = talk.text.len();

    disk.fill();
    let mut kept = Vec::new();
    for place in 0..12 {
        kept.push(talk.on(&service, &context, [None, Some("rust-code")][place % 2]));
    }
    assert!(kept.contains(&false), "twelve calls found room on a full disk: {kept:?}");
    let first = kept.iter().position(|durable| !durable).expect("one was not");
    assert!(kept[first..].iter().all(|durable| !durable), "what is behind a gap is not durable: {kept:?}");
    assert_eq!(warnings_of("contexts may not survive a crash"), 1);
    assert_eq!(warnings_of("could not be swapped out"), 1);
    let refused = app.new_context();
    assert!(matches!(refused, Err(ServiceError::Journal { .. })), "{refused:?}");
    let engine = service.stop().expect("nothing has panicked");
    let (before, unwritten) = written(&engine);
    assert!(unwritten > 0);
    drop(engine);

    // A run that begins on the full disk has what is durable, and answers.
    let service = start(self::engine(&swapping(&store), 2, 2048));
    assert_eq!(service.restored().contexts, 1, "{:?}", service.restored());
    let app = service.app("mail", None).expect("there is a place");
    let context = app.context(id).expect("it was kept");
    let tokens = context.tokens().expect("it is there");
    let whole = durable + kept.iter().take_while(|durable| **durable).count() * (PROMPT + ANSWER);
    assert_eq!(tokens, talk.text[..whole]);
    talk.text.truncate(whole);
    let _ = talk.on(&service, &context, Some("error-codes"));

    // With room again the next call makes all of it durable, and pages are written once that is tried again.
    disk.free();
    assert!(talk.on(&service, &context, None));
    let start_of_wait = Instant::now();
    let mut service = service;
    loop {
        let engine = service.stop().expect("nothing has panicked");
        let is_written = written(&engine).0 > 0;
        service = start(engine);
        if is_written {
            break;
        }
        assert!(start_of_wait.elapsed() < Duration::from_secs(60), "nothing is written though there is room");
        std::thread::sleep(Duration::from_millis(500));
        let app = service.app("mail", None).expect("there is a place");
        let other = app.new_context().expect("there is room");
        let mut talk = Talk { alone: Alone::new(), random: Random::new(before), text: Vec::new() };
        assert!(talk.on(&service, &other, None));
        other.delete().expect("it is there");
    }
    drop(service);
    let service = start(self::engine(&swapping(&store), 2, 2048));
    let app = service.app("mail", None).expect("there is a place");
    assert_eq!(app.context(id).expect("it was kept").tokens().expect("it is there"), talk.text);
}
