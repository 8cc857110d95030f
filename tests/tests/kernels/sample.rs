//! `sample` against the reference: the same token for every combination of rules.

use std::sync::{Mutex, OnceLock};

use interleaf_contract::{Backend, Numerics, Sampler};
use interleaf_tests::backends;
use interleaf_tests::data::Random;
use interleaf_tests::sampling::{choose, is_next_to};
use proptest::prelude::*;

/// Opening a device is slow: one serves all cases.
fn with_gpu<T>(use_it: impl FnOnce(&mut dyn Backend) -> T) -> Option<T> {
    static GPU: OnceLock<Option<Mutex<backends::Boxed>>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| backends::gpu().map(Mutex::new));
    gpu.as_ref().map(|gpu| use_it(&mut **gpu.lock().expect("no case panicked with it")))
}

proptest! {
    #[test]
    fn every_rule_chooses_as_the_reference(
        temperature in prop::sample::select(vec![0.0f32, 1e-30, 0.2, 0.8, 1.0, 3.0, 1e4, 1e30]),
        top_k in prop::sample::select(vec![0u32, 1, 5, 40, 1000]),
        top_p in prop::sample::select(vec![0.1f32, 0.5, 0.9, 1.0]),
        min_p in prop::sample::select(vec![0.0f32, 0.05, 0.5, 1.0]),
        repeat_penalty in prop::sample::select(vec![1.0f32, 1.1, 2.0, 0.5]),
        bias in 0usize..4,
        broken in any::<bool>(),
        seed in any::<u64>(),
        vocabulary in prop::sample::select(vec![1usize, 2, 97, 512, 5000]),
    ) {
        let mut random = Random::new(seed);
        // Coarse logits, so that there are equal ones.
        let mut logits: Vec<Vec<f32>> = (0..4)
            .map(|_| random.values(vocabulary).iter().map(|v| (v * 40.0).round() / 4.0).collect())
            .collect();
        if broken {
            for logits in &mut logits {
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN, f32::MAX, f32::MIN] {
                    logits[random.below(vocabulary)] = value;
                }
            }
        }
        let samplers: Vec<Sampler> = (0..4)
            .map(|i| Sampler {
                bias: (0..bias).map(|i| (random.below(vocabulary) as u32, [3.5, f32::NEG_INFINITY, 3e38, 3e38][i % 4])).collect(),
                temperature,
                top_k,
                top_p,
                min_p,
                repeat_penalty,
                history: (0..6).map(|_| random.below(vocabulary) as u32).collect(),
                seed,
                sequence: i,
                step: i * 3,
            })
            .collect();
        let rows = logits.clone();
        let logits: std::sync::Arc<[f32]> = logits.concat().into();
        let reference = choose(&mut *backends::reference(Numerics::ActF32), &logits, &samplers);
        for mut backend in backends::cpu_tiers(2, Numerics::ActF32) {
            prop_assert_eq!(&reference, &choose(&mut *backend, &logits, &samplers), "{}", backend.info().tier);
        }
        // The GPU adds weights in f32: where a sum is next to what it is compared with, the next token will do.
        let found = with_gpu(|gpu| choose(gpu, &logits, &samplers));
        for (i, (&found, &reference)) in found.iter().flatten().zip(&reference).enumerate() {
            let close = found.is_some_and(|token| is_next_to(&rows[i], &samplers[i], token, 1e-5));
            prop_assert!(found == reference || close, "row {i}: {found:?}, reference {reference:?}");
        }
    }
}
