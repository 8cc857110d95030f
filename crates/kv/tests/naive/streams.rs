//! Streams of events as bytes, on any compiler: sound ones changed in ways that random bytes seldom find, and every one that
//! was ever found to do harm. libFuzzer plays them too, from `tests/fuzz`, which has the files.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use crate::world::stream::{MOST_EVENTS, play};

/// Bytes of an event, and of what comes before the first.
const RECORD: usize = 8;
const HEAD: usize = 4;

/// One change. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Mutation {
    /// Another byte.
    Set { at: usize, byte: u8 },
    /// Events that are gone.
    Cut { at: usize, events: usize },
    /// Events that come again, at another place.
    Again { from: usize, to: usize, events: usize },
    /// Two events the other way round.
    Swap { one: usize, two: usize },
    /// Events of another seed.
    Splice { at: usize, seed: usize, from: usize, events: usize },
    /// An event of any kind.
    Insert { at: usize, event: [u8; RECORD] },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let (at, few) = (0..MOST_EVENTS, 1..12_usize);
    prop_oneof![
        3 => (0..MOST_EVENTS * RECORD, any::<u8>()).prop_map(|(at, byte)| Mutation::Set { at, byte }),
        1 => (at.clone(), few.clone()).prop_map(|(at, events)| Mutation::Cut { at, events }),
        1 => (at.clone(), at.clone(), few.clone()).prop_map(|(from, to, events)| Mutation::Again { from, to, events }),
        2 => (at.clone(), at.clone()).prop_map(|(one, two)| Mutation::Swap { one, two }),
        2 => (at.clone(), 0..64_usize, at.clone(), few)
            .prop_map(|(at, seed, from, events)| Mutation::Splice { at, seed, from, events }),
        3 => (at, any::<[u8; RECORD]>()).prop_map(|(at, event)| Mutation::Insert { at, event }),
    ]
}

/// A stream's events, without its head.
fn events(stream: &[u8]) -> Vec<[u8; RECORD]> {
    let record = |bytes: &[u8]| std::array::from_fn(|i| bytes.get(i).copied().unwrap_or_default());
    stream.get(HEAD..).unwrap_or_default().chunks(RECORD).map(record).collect()
}

fn some(all: &[[u8; RECORD]], from: usize, count: usize) -> Vec<[u8; RECORD]> {
    let from = from % all.len().max(1);
    all[from.min(all.len())..(from + count).min(all.len())].to_vec()
}

fn mutated(seeds: &[Vec<u8>], seed: usize, mutations: &[Mutation]) -> Vec<u8> {
    let seed = &seeds[seed % seeds.len()];
    let mut head = seed[..HEAD.min(seed.len())].to_vec();
    let mut all = events(seed);
    for mutation in mutations {
        let count = all.len().max(1);
        let place = |at: usize| (at % count).min(all.len());
        // Events that are put in, and where.
        let (at, new) = match *mutation {
            Mutation::Set { at, byte } => {
                let at = at % (HEAD + count * RECORD);
                let byte_at = match at.checked_sub(HEAD) {
                    None => head.get_mut(at),
                    Some(at) => all.get_mut(at / RECORD).map(|event| &mut event[at % RECORD]),
                };
                byte_at.into_iter().for_each(|old| *old = byte);
                continue;
            }
            Mutation::Cut { at, events } => {
                let at = place(at);
                all.drain(at..(at + events).min(all.len()));
                continue;
            }
            Mutation::Swap { one, two } => {
                let (one, two) = (one % count, two % count);
                if !all.is_empty() {
                    all.swap(one, two);
                }
                continue;
            }
            Mutation::Again { from, to, events } => (place(to), some(&all, from, events)),
            Mutation::Splice { at, seed, from, events: few } => {
                (place(at), some(&events(&seeds[seed % seeds.len()]), from, few))
            }
            Mutation::Insert { at, event } => (place(at), vec![event]),
        };
        all.splice(at..at, new);
    }
    all.truncate(MOST_EVENTS);
    [&head[..], &all.concat()].concat()
}

/// The files of a folder of `tests/fuzz`, by name.
fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz").join(folder).join("kv_events");
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("a readable folder");
        (
            entry.file_name().to_string_lossy().into_owned(),
            std::fs::read(entry.path()).expect("a readable file"),
        )
    };
    let mut all: Vec<_> = entries.map(file).collect();
    all.sort();
    all
}

static SEEDS: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| files("corpus").into_iter().map(|(_, stream)| stream).collect());

/// Seeds that find nothing again, or are cut short, would try little.
#[test]
fn every_seed_finds_something_again() {
    let all = files("corpus");
    assert!(!all.is_empty());
    for (name, stream) in all {
        assert!(stream.len() > HEAD && stream.len() <= HEAD + MOST_EVENTS * RECORD, "{name}");
        assert!(play(&stream).unwrap_or_else(|e| panic!("{name}: {e}")) > 0, "{name}");
    }
}

#[test]
fn streams_that_did_harm_once_do_none() {
    for (name, stream) in files("regressions") {
        play(&stream).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        // They are longer than what is drawn.
        cases: crate::cases() / 5,
        // What fails is kept as a file in `regressions`, under a name of its own.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn mutated_streams_are_survived(seed in 0..64_usize, mutations in prop::collection::vec(mutation(), 0..24)) {
        let stream = mutated(&SEEDS, seed, &mutations);
        play(&stream).map_err(|e| TestCaseError::fail(format!("{e}; the stream: {stream:?}")))?;
    }
}
