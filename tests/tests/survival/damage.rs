//! Files of the store in which bits are flipped, or that are cut off, between one run and the next: what is not as it was written is
//! found out and said, contexts have what was whole before it, and pages are computed again.

use std::path::{Path, PathBuf};

use interleaf_runtime::{Prompt, Service, TrimLevel};
use interleaf_tests::data::Random;

use super::rig::{Alone, adapter, call, count, end, engine, start, swapping, tokens};

const CONTEXTS: usize = 3;

/// The files that contexts are in, and those that chunks are swapped to.
fn files(store: &Path) -> (Vec<PathBuf>, [PathBuf; 2]) {
    let entries = std::fs::read_dir(store.join("contexts")).expect("it is there");
    let mut contexts: Vec<PathBuf> = entries.map(|entry| entry.expect("it is listed").path()).collect();
    contexts.retain(|path| path.extension().is_some_and(|extension| extension == "context"));
    contexts.sort();
    (contexts, [store.join("swap/index"), store.join("swap/pages")])
}

/// Flips a few bits, or cuts the file off. Says whether it is another file by now.
fn harm(file: &Path, random: &mut Random) -> bool {
    let whole = std::fs::read(file).expect("it is there");
    if whole.is_empty() {
        return false;
    }
    let mut bytes = whole.clone();
    match random.below(3) {
        0 => bytes.truncate(random.below(whole.len())),
        flips => (0..1 + flips * random.below(20)).for_each(|_| {
            // Most of the file of pages is holes, of which nobody reads anything.
            let from = random.below(whole.len());
            let at = (from..whole.len()).chain(0..from).find(|at| whole[*at] != 0).unwrap_or(from);
            bytes[at] ^= 1 << random.below(8);
        }),
    }
    std::fs::write(file, &bytes).expect("it is written");
    bytes != whole
}

fn serve(store: &Path) -> Service {
    start(engine(&swapping(store), 2, 512))
}

/// A few calls of a context; its text goes on in `text`.
fn talk(service: &Service, place: usize, text: &mut Vec<u32>, alone: &mut Alone, random: &mut Random) {
    let app = service.app("mail", None).expect("there is a place");
    let context = app.contexts().into_iter().nth(place);
    let context = context.unwrap_or_else(|| app.new_context().expect("it begins"));
    for _ in 0..2 {
        let own = 3 + random.below(40);
        let (prompt, adapter) = (tokens(random, own), adapter(random));
        let generation =
            context.call(&Prompt::Tokens(prompt.clone()), &call(adapter, 4)).expect("it is taken");
        let answer = end(generation).expect("it is answered");
        assert!(answer.is_durable);
        text.extend(prompt);
        assert_eq!(answer.completion.tokens, alone.says(text, adapter, 4));
        text.extend(answer.completion.tokens);
        assert_eq!(&context.tokens().expect("it is there"), text);
        service.trim_memory(TrimLevel::Warning).expect("it serves");
    }
}

/// What a run leaves in a store: some contexts with a few calls each, whose texts are returned.
fn begin(store: &Path, alone: &mut Alone, random: &mut Random) -> Vec<Vec<u32>> {
    let mut texts = vec![Vec::new(); CONTEXTS];
    let service = serve(store);
    for (place, text) in texts.iter_mut().enumerate() {
        talk(&service, place, text, alone, random);
    }
    texts
}

#[test]
fn what_is_damaged_is_found_and_everything_before_it_is_there() {
    let random = &mut Random::new(21);
    let mut alone = Alone::new();
    let (mut cut, mut lost, mut damaged, mut recomputed) = (0, 0, 0, 0);
    for round in 0..count("INTERLEAF_DAMAGES", 12) {
        let store = tempfile::tempdir().expect("a folder");
        let texts = begin(store.path(), &mut alone, random);
        let (contexts, swapped) = files(store.path());
        let harmed: Vec<bool> =
            contexts.iter().map(|file| random.below(3) == 0 && harm(file, random)).collect();
        for file in &swapped {
            harm(file, random);
        }

        let service = serve(store.path());
        let restored = service.restored().clone();
        let app = service.app("mail", None).expect("there is a place");
        let there = app.contexts();
        assert_eq!(there.len() + restored.unreadable.len(), CONTEXTS, "{restored:?}");
        for (place, file) in contexts.iter().enumerate() {
            let id = u64::from_str_radix(file.file_stem().expect("a name").to_str().expect("text"), 16);
            let id = id.expect("a number");
            let Some(context) = there.iter().find(|context| context.id().0 == id) else {
                // Of a context whose header is damaged nothing can be told but that.
                assert!(harmed[place] && restored.unreadable.contains(file), "{restored:?}");
                lost += 1;
                continue;
            };
            let tokens = context.tokens().expect("it is there");
            assert!(texts[place].starts_with(&tokens), "round {round}: another text");
            if !harmed[place] {
                assert_eq!(tokens, texts[place], "round {round}: nothing was done to it");
            }
            let is_said = restored.cut.iter().any(|(cut, bytes)| cut.0 == id && *bytes > 0);
            // A file that was cut off between two records is a shorter one.
            assert!(harmed[place] || !is_said);
            cut += usize::from(is_said);
        }
        for (nth, context) in there.iter().enumerate() {
            let mut text = context.tokens().expect("it is there");
            talk(&service, nth, &mut text, &mut alone, random);
        }
        let engine = service.stop().expect("nothing has panicked");
        engine.check_pages().expect("everything fits together");
        let stats = engine.swap_stats().expect("it swaps");
        damaged += stats.damaged;
        recomputed += stats.recomputed;
    }
    println!("contexts cut {cut}, unreadable {lost}; chunks damaged {damaged}, recomputed {recomputed}");
    assert!(cut > 0 && damaged > 0);
}

#[test]
fn a_context_that_cannot_be_read_costs_no_other() {
    let random = &mut Random::new(22);
    let mut alone = Alone::new();
    let store = tempfile::tempdir().expect("a folder");
    let texts = begin(store.path(), &mut alone, random);
    let (contexts, _) = files(store.path());
    let whole = std::fs::read(&contexts[1]).expect("it is there");
    // The header, wherever it is hit; what is empty; and what is no file.
    for at in (0..58).step_by(7).map(Some).chain([None]) {
        let mut bytes = whole.clone();
        match at {
            Some(at) => bytes[at] ^= 4,
            None => bytes.clear(),
        }
        std::fs::write(&contexts[1], bytes).expect("it is written");
        let service = serve(store.path());
        assert_eq!((service.restored().contexts, &service.restored().unreadable[..]), (2, &contexts[1..2]));
    }
    std::fs::remove_file(&contexts[1]).expect("it is there");
    std::fs::create_dir(&contexts[1]).expect("a folder");
    let service = serve(store.path());
    assert_eq!((service.restored().contexts, &service.restored().unreadable[..]), (2, &contexts[1..2]));
    let app = service.app("mail", None).expect("there is a place");
    let there: Vec<_> = app.contexts().iter().map(|context| context.tokens().expect("it is there")).collect();
    assert_eq!(there, [texts[0].clone(), texts[2].clone()]);
    assert!(app.new_context().expect("it begins").id().0 > 3, "its number is taken");
}
