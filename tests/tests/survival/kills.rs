//! A program that is killed, at whatever moment, and started again: it has every token that it said was there, and says what it would
//! have said.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use interleaf_tests::data::Random;

use super::driver;
use super::rig::{Alone, count};
use super::script::{CALLS, CONTEXTS, Call, length, script, texts};

/// This file's test, by which the program is started that is killed, and where that finds what to go on with.
const TEST: &str =
    "kills::every_token_that_was_committed_is_there_and_the_rest_is_said_as_it_would_have_been";
const STORE: &str = "INTERLEAF_SURVIVAL_STORE";
const SEED: &str = "INTERLEAF_SURVIVAL_SEED";

/// What is known of a store when nothing runs.
#[derive(Default)]
struct Known {
    /// Of each context, calls that it said were durable.
    committed: [usize; CONTEXTS],
}

/// What was seen in all.
#[derive(Debug, Default)]
struct Seen {
    kills: usize,
    scripts: usize,
    runs_with_contexts: usize,
    contexts: usize,
    loads_cut_short: usize,
    torn: usize,
    cut: u64,
    calls: usize,
    written: u64,
    read: u64,
    recomputed: u64,
    damaged: u64,
    restored: u64,
}

struct Script {
    calls: Vec<Vec<Call>>,
    texts: Vec<Vec<u32>>,
}

fn run(store: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(STORE, store)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// What a program said until it was killed or ended; half a line was never said. It is killed so long after it began, or after it
/// said that its contexts are there.
fn listen(mut child: Child, most: Duration, is_restored_first: bool) -> (Vec<String>, bool) {
    let out = child.stdout.take().expect("it is piped");
    let (tell, told) = channel();
    let lines = std::thread::spawn(move || {
        let mut lines = Vec::new();
        let (mut out, mut line) = (BufReader::new(out), String::new());
        while out.read_line(&mut line).is_ok_and(|read| read > 0) {
            if line.ends_with('\n') {
                lines.push(line.trim_end().to_owned());
                if line == "restored\n" {
                    // Nobody may want to know.
                    let _ = tell.send(());
                }
            }
            line.clear();
        }
        lines
    });
    if is_restored_first {
        // One that ends before is seen to below.
        let _ = told.recv();
    }
    let start = Instant::now();
    while start.elapsed() < most && child.try_wait().expect("it is ours").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("it can be killed");
    let status = child.wait().expect("it has ended");
    // Killed, or over before that.
    let was_killed = status.code().is_none();
    assert!(was_killed || status.success(), "{status}: it failed on its own");
    (lines.join().expect("no panic"), was_killed)
}

/// Holds what a run said against what is known and what it should say.
fn judge(lines: &[String], script: &Script, known: &mut Known, seen: &mut Seen) {
    let before = known.committed;
    let mut there = [0; CONTEXTS];
    let (mut is_restored, mut swap) = (false, [0; 5]);
    for line in lines {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        let numbers = || rest.split_whitespace().map(|word| word.parse().expect("a number"));
        match what {
            "again" => seen.loads_cut_short += 1,
            "cut" => seen.cut += numbers().nth(1).expect("bytes"),
            "context" => {
                let place = numbers().next().expect("a place") as usize;
                let tokens: Vec<u32> = numbers().skip(1).map(|token| token as u32).collect();
                let (calls, text) = (&script.calls[place], &script.texts[place]);
                assert!(text.starts_with(&tokens), "context {place} has another text");
                let has = (0..=CALLS).find(|done| length(&calls[..*done]) == tokens.len());
                let has = has.expect("a context has whole calls");
                // A call that was not told of may have been written.
                let told = before[place]..=before[place] + 1;
                assert!(told.contains(&has), "context {place}: {has} calls, of which {told:?} were told");
                there[place] = has;
                seen.contexts += 1;
            }
            "restored" => {
                is_restored = true;
                for place in 0..CONTEXTS {
                    assert!(there[place] >= before[place], "context {place} is gone: {before:?}");
                }
                known.committed = there;
                seen.runs_with_contexts += usize::from(there.iter().any(|calls| *calls > 0));
            }
            "said" => {
                let said: Vec<usize> = numbers().map(|number| number as usize).collect();
                let [place, number, durable, tokens @ ..] = &said[..] else { panic!("{line}") };
                let text = &script.texts[*place];
                let calls = &script.calls[*place];
                let expected = &text[length(&calls[..*number]) + calls[*number].prompt.len()..];
                let expected = &expected[..calls[*number].max_tokens];
                assert!(tokens.iter().map(|token| *token as u32).eq(expected.iter().copied()), "{line}");
                assert_eq!((*durable, *number), (1, known.committed[*place]), "{line}");
                known.committed[*place] = number + 1;
                seen.calls += 1;
            }
            "swap" => numbers().zip(&mut swap).for_each(|(number, of)| *of = number),
            _ => {}
        }
    }
    assert!(is_restored || known.committed == before);
    let [written, read, recomputed, damaged, restored] = swap;
    seen.written += written;
    seen.read += read;
    seen.recomputed += recomputed;
    seen.damaged += damaged;
    seen.restored += restored;
}

/// What a crash of the system may leave behind besides: half of a record, of a call that had not ended; pages that were not what was
/// written.
fn crash(store: &Path, random: &mut Random, seen: &mut Seen) {
    let files = |folder: &str| {
        let entries = std::fs::read_dir(store.join(folder)).into_iter().flatten();
        entries.map(|entry| entry.expect("it is listed").path()).collect::<Vec<_>>()
    };
    let contexts: Vec<_> = files("contexts")
        .into_iter()
        .filter(|file| file.extension().is_some_and(|e| e == "context"))
        .collect();
    if random.below(3) == 0 && !contexts.is_empty() {
        let file = &contexts[random.below(contexts.len())];
        let mut bytes = std::fs::read(file).expect("it is read");
        // One that began before its header was whole is no context's yet, and is made anew by nobody.
        bytes.extend((0..1 + random.below(60)).map(|_| random.bits() as u8));
        std::fs::write(file, bytes).expect("it is written");
        seen.torn += 1;
    }
    let pages = store.join("swap/pages");
    if random.below(3) == 0
        && let Ok(mut bytes) = std::fs::read(&pages)
        && !bytes.is_empty()
    {
        for _ in 0..64 {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        if random.below(4) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        std::fs::write(pages, bytes).expect("it is written");
    }
}

#[test]
fn every_token_that_was_committed_is_there_and_the_rest_is_said_as_it_would_have_been() {
    // Started with a store, it is the program that is killed.
    if let (Some(store), Ok(seed)) = (std::env::var_os(STORE), std::env::var(SEED)) {
        return driver::run(Path::new(&store), seed.parse().expect("a seed"));
    }
    let kills = count("INTERLEAF_KILLS", 12);
    let random = &mut Random::new(9);
    let mut alone = Alone::new();
    let mut seen = Seen::default();
    while seen.kills < kills {
        let seed = 100 + seen.scripts as u64;
        let calls = script(seed);
        let texts = texts(&mut alone, &calls);
        let script = Script { calls, texts };
        let store = tempfile::tempdir().expect("a folder");
        let mut known = Known::default();
        loop {
            // Also while it begins, and loads.
            let is_restored_first = random.below(6) > 0;
            let within = if is_restored_first { 400 } else { 40 };
            let most = if seen.kills < kills { random.below(within) as u64 } else { 120_000 };
            let (lines, was_killed) =
                listen(run(store.path(), seed), Duration::from_millis(most), is_restored_first);
            judge(&lines, &script, &mut known, &mut seen);
            if !was_killed {
                assert_eq!(lines.iter().filter(|line| *line == "over").count(), 1, "{lines:?}");
                assert_eq!(known.committed, [CALLS; CONTEXTS]);
                break;
            }
            seen.kills += 1;
            crash(store.path(), random, &mut seen);
        }
        seen.scripts += 1;
    }
    println!("{seen:#?}\nwrong tokens: 0");
    assert!(seen.runs_with_contexts > 0, "{seen:?}");
}
