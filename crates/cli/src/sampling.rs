//! How tokens are chosen: the command line's options over the model's own over greedy.

use interleaf_runtime::{Engine, SamplingOptions};

use crate::args::SamplingArgs;

/// Options given on the command line, over the model's own where it asks to be sampled, over greedy.
pub fn options(engine: &Engine, args: &SamplingArgs) -> SamplingOptions {
    let model = engine.model().generation_defaults();
    let sampled = model.do_sample == Some(true);
    let default = SamplingOptions::default();
    let or = |given: Option<f32>, of_model: Option<f32>, otherwise: f32| {
        given.or(if sampled { of_model } else { None }).unwrap_or(otherwise)
    };
    let temperature = if sampled { 1.0 } else { default.temperature };
    SamplingOptions {
        logit_bias: args.logit_bias.clone(),
        temperature: or(args.temperature, model.temperature, temperature),
        top_k: args.top_k.or(if sampled { model.top_k } else { None }).unwrap_or(default.top_k),
        top_p: or(args.top_p, model.top_p, default.top_p),
        min_p: or(args.min_p, model.min_p, default.min_p),
        repeat_penalty: args.repeat_penalty.or(model.repetition_penalty).unwrap_or(default.repeat_penalty),
        seed: args.seed,
        ..default
    }
}
