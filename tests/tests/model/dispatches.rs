//! What a token costs on the GPU in dispatches and submits, for every family under an adapter.

use interleaf_runtime::{BackendChoice, Engine, Feed, RowKind, Source, Want};
use interleaf_tests::backends;

use crate::golden::FAMILIES;
use crate::support::{self, data, options};

/// Kernels of a layer: norm and shrink, projections, rope and append, two of attention; shrink and matmul of the
/// output; norm and shrink, gate and up; shrink and matmul of down. Norms of heads and residuals are part of them.
const OF_A_LAYER: usize = 11;

/// The embedding, the last norm, the head, and the choice of a token.
const OF_A_STEP: usize = 4;

/// Dispatches, submits and bytes loaded of one generated token.
fn of_a_token(engine: &mut Engine) -> (u64, u64, u64) {
    engine.reserve_kv(1, 32).expect("a small pool");
    let adapter = engine.adapters().next().expect("one").name.clone();
    let sequence = engine.open_sequence(Some(&adapter), &[]).expect("room for one");
    let want = Want::Token(interleaf_runtime::Sampler::greedy());
    let mut feed = |tokens: &[u32], kind| {
        engine.take_work();
        let feed = Feed { sequence, tokens, kind, want: want.clone() };
        engine.feed(&[feed]).expect("it runs");
        engine.take_work().expect("a GPU counts")
    };
    feed(&[3, 5, 7], RowKind::Prompt);
    let work = feed(&[9], RowKind::Generated);
    (work.dispatches(), work.submits, work.loaded())
}

#[test]
fn a_token_takes_one_submit_and_few_dispatches() {
    if backends::gpu().is_none() {
        return;
    }
    for name in FAMILIES {
        let folder = data("families").join(name);
        let mut engine = Engine::open(Source::dir(&folder), &options(BackendChoice::Gpu), &mut |_| ())
            .expect("the family loads");
        engine.register_adapter("adapter", &Source::dir(folder.join("adapter"))).expect("it fits");
        let layers = engine.config().layers;
        let capped = usize::from(engine.config().logit_softcap.is_some());
        let (dispatches, submits, _) = of_a_token(&mut engine);
        assert_eq!(submits, 1, "{name}");
        let most = OF_A_LAYER * layers + OF_A_STEP + capped;
        assert!(dispatches as usize <= most, "{name}: {dispatches} dispatches, expected at most {most}");
    }
    let mut engine = support::demo(&options(BackendChoice::Gpu));
    let layers = engine.config().layers;
    let (dispatches, submits, loaded) = of_a_token(&mut engine);
    assert_eq!((dispatches, submits), ((OF_A_LAYER * layers + OF_A_STEP) as u64, 1), "the demo model");
    // What must be read: weights and the adapter; a few tokens of K and V are too little to count.
    let adapter = engine.adapters().next().expect("one").bytes;
    let weights = engine.weight_bytes();
    let least = weights.layers + weights.head + adapter;
    assert!(loaded >= least && loaded * 100 <= least * 110, "{loaded} bytes loaded, {least} must be");
}
