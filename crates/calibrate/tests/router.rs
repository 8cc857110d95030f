//! A router of the demo model's: trained on its prompts to train on, and right about those to test with at least as often as a
//! bag of tokens.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use interleaf_calibrate::{SCORED, evaluate_router, read_prompts, train_router};
use interleaf_demo_model as demo_model;
use interleaf_runtime::{Engine, PageElement, Source};

fn engine() -> Engine {
    let mut engine = common::engine(PageElement::F16, None);
    for &(name, files) in demo_model::ADAPTERS {
        engine.register_adapter(name, &Source::Embedded { name, files }).unwrap();
    }
    engine.reserve_kv(2, 512).unwrap();
    engine
}

#[test]
fn it_is_right_at_least_as_often_as_a_bag_of_tokens() {
    let (name, bytes) = demo_model::ROUTING;
    let prompts = read_prompts(name, bytes).unwrap();
    assert_eq!((prompts.train.len(), prompts.test.len(), prompts.labels.len()), (480, 120, 6));
    let mut engine = engine();
    let trained = train_router(&mut engine, &prompts, true, SCORED, &mut |_| ()).unwrap();
    let head = &trained.head;
    assert!(head.labels.iter().all(|label| label.adapter.is_some()), "all of them are registered");
    assert_eq!((head.origin.prompts, head.looks.tokens, trained.tried.len()), (480, SCORED, 24));
    assert!((0.25..4.0).contains(&head.temperature), "{}", head.temperature);

    let found = evaluate_router(&mut engine, head, &prompts).unwrap();
    let [single, bag, own, oracle] = &found.rows;
    println!(
        "top 1 of {} prompts: best single {}, bag {} ({}), own {} ({})",
        found.prompts, single.top[0], bag.top[0], found.bag.options, own.top[0], trained.chosen.options
    );
    println!("losses: {} {} {}", single.loss, bag.loss, own.loss);
    assert!(own.top[0] >= bag.top[0], "{} of own, {} of a bag", own.top[0], bag.top[0]);
    assert!((single.top[0] - 1.0 / 6.0).abs() < 1e-9 && oracle.top[0] == 1.0);
    assert!(bag.top[0] > 0.9, "a baseline that deserves the name: {}", bag.top[0]);
    assert!(own.top[0] <= own.top[1] && own.top[1] <= own.top[2]);
    assert!(own.loss < single.loss);

    // With all resident nothing is loaded, whatever k; with k = 1 it is always the likeliest.
    for preference in &found.preferences {
        assert!(preference.residents < 6 || preference.loaded == 0.0);
        assert!(preference.k > 1 || (preference.right - own.top[0]).abs() < 1e-9, "{preference:?}");
    }
    assert_eq!(found.labels.iter().map(|label| label.prompts).collect::<Vec<_>>(), [20; 6]);
    assert!(found.times.scored <= found.times.tokens && found.times.head < found.times.route);
}
