//! What the cache may take is halved and quartered while it is used: what is too much is gone at once, calls end as they would
//! have, and all of it is there again once it may be.

use interleaf_runtime::{EngineOptions, FinishReason, Generation, Prompt, TrimLevel};
use interleaf_tests::data::Random;

use super::rig::{Alone, call, end, engine, held, options, start, tokens};

const CALLS: usize = 8;
const PROMPT: usize = 40;
const ANSWER: usize = 90;

/// Waits until some calls have said so much.
fn said(generations: &[Generation], least: usize) {
    for generation in generations {
        let mut has = 0;
        while has < least {
            match generation.next() {
                Some(interleaf_runtime::Progress::Text { tokens, .. }) => has = tokens,
                Some(_) => {}
                None => panic!("it ended after {has} tokens"),
            }
        }
    }
}

#[test]
fn what_a_budget_takes_away_under_load_changes_no_answer_and_comes_back() {
    for pool_adapters in [false, true] {
        let random = &mut Random::new(3);
        let prompts: Vec<Vec<u32>> = (0..CALLS).map(|_| tokens(random, PROMPT)).collect();
        let names = [None, Some("rust-code"), Some("error-codes"), Some("book-prose")];
        let mut alone = Alone::new();
        let answers: Vec<Vec<u32>> =
            (0..CALLS).map(|place| alone.says(&prompts[place], names[place % names.len()], ANSWER)).collect();

        let service = start(engine(&EngineOptions { pool_adapters, ..options() }, CALLS, 160));
        let whole = service.memory().expect("it serves").backend.kv;
        let mut cut = 0;
        for round in 0..2 {
            let generations: Vec<Generation> = (0..CALLS)
                .map(|place| {
                    let app = service.app(&format!("app {place}"), None).expect("there is a place");
                    let context = app.new_context().expect("it begins");
                    let options = call(names[place % names.len()], ANSWER);
                    context.call(&Prompt::Tokens(prompts[place].clone()), &options).expect("it is taken")
                })
                .collect();
            for (least, share) in [(4, 2), (12, 4), (20, 1), (30, 2)] {
                said(&generations[..1], least);
                let before = held(&service.memory().expect("it serves"));
                cut += usize::from(before > whole / share);
                service.set_budget(whole / share).expect("it serves");
                let memory = service.memory().expect("it serves");
                assert!(held(&memory) <= whole / share, "a {share}th of {whole}: {memory:?}");
                service.check_pages().expect("it serves").expect("everything fits together");
            }
            for (place, generation) in generations.into_iter().enumerate() {
                let answer = end(generation).expect("it is answered").completion;
                assert_eq!(answer.reason, FinishReason::Length, "{round}: call {place}");
                assert_eq!(answer.tokens, answers[place], "{round}: call {place}");
            }
            let memory = service.memory().expect("it serves");
            assert!(memory.kv_in_use == 0 && held(&memory) <= whole / 2, "{memory:?}");
            service.set_budget(whole).expect("it serves");
        }
        service.trim_memory(TrimLevel::Warning).expect("it serves");
        let memory = service.memory().expect("it serves");
        assert_eq!((held(&memory), memory.kv_in_use), (0, 0), "{memory:?}");
        assert!(cut > 0, "there was never too much");
        let stats = service.stats().expect("it serves");
        assert_eq!((stats.answered, stats.failed), (2 * CALLS as u64, 0), "{stats:?}");
        service.stop().expect("nothing has panicked").check_pages().expect("everything fits together");
    }
}
