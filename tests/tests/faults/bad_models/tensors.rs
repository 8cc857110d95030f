//! Tensors that are not what the config calls for.

use interleaf_runtime::{Source, WeightFormat};
use serde_json::json;

use super::{BASE, Q1, are_refused, open, sound, with_config};
use crate::build::{MODEL, Parts, family, filled, with_value};
use crate::measure::alone;

const NORM: &str = "model.norm.weight";
const UP0: &str = "model.layers.0.mlp.up_proj.weight";

#[test]
fn tensors_that_the_config_does_not_call_for() {
    let as_type = |dtype: &'static str, bytes: usize| {
        sound().change(Q1, |t| {
            (t.dtype, t.data) = (dtype.into(), vec![0; t.shape.iter().product::<usize>() * bytes])
        })
    };
    let shaped = |shape: &[usize]| sound().tensor(filled(Q1, shape, 0.5)).write();
    are_refused(|| {
        vec![
            ("a missing matrix", sound().without(Q1).write(), vec![MODEL, Q1, "is missing"]),
            ("a missing norm", sound().without(NORM).write(), vec![MODEL, NORM, "is missing"]),
            (
                "a missing bias",
                sound().without("model.layers.2.mlp.down_proj.bias").write(),
                vec![MODEL, "model.layers.2.mlp.down_proj.bias is missing"],
            ),
            ("another shape", shaped(&[64, 32]), vec![MODEL, Q1, "[64, 32], expected [64, 64]"]),
            ("other dimensions", shaped(&[4096]), vec![MODEL, Q1, "[4096], expected [64, 64]"]),
            ("no elements", shaped(&[0, 64]), vec![MODEL, Q1, "[0, 64], expected [64, 64]"]),
            ("integers", as_type("I64", 8).write(), vec![MODEL, Q1, "is I64, expected F32, F16 or BF16"]),
            (
                "eight bits",
                as_type("F8_E4M3", 1).write(),
                vec![MODEL, Q1, "is F8_E4M3, expected F32, F16 or BF16"],
            ),
            ("doubles", as_type("F64", 8).write(), vec![MODEL, Q1, "is F64, expected F32, F16 or BF16"]),
            (
                "NaN in a norm",
                sound().tensor(with_value(NORM, &[64], 3, f32::NAN)).write(),
                vec![MODEL, NORM, "NaN at element 3"],
            ),
            (
                "infinity in a norm",
                sound().tensor(with_value(NORM, &[64], 63, f32::INFINITY)).write(),
                vec![MODEL, NORM, "inf at element 63"],
            ),
            (
                "NaN in a bias",
                sound()
                    .tensor(with_value("model.layers.0.self_attn.k_proj.bias", &[32], 5, f32::NAN))
                    .write(),
                vec![MODEL, "model.layers.0.self_attn.k_proj.bias", "NaN at element 5"],
            ),
            (
                "biases that the config denies",
                with_config(json!({"mlp_bias": false})),
                vec![MODEL, "mlp.", "_proj.bias", "config.json calls for no such tensor"],
            ),
            (
                "biases that it calls for",
                Parts::of("llama-rope3").config(json!({"attention_bias": true})).write(),
                vec![MODEL, "self_attn.q_proj.bias is missing"],
            ),
            (
                "head norms that the family does not have",
                sound().tensor(filled("model.layers.0.self_attn.q_norm.weight", &[16], 1.0)).write(),
                vec![MODEL, "self_attn.q_norm.weight", "config.json calls for no such tensor"],
            ),
            (
                "experts",
                sound()
                    .tensor(filled("model.layers.0.block_sparse_moe.experts.0.w1.weight", &[128, 64], 1.0))
                    .write(),
                vec![MODEL, "block_sparse_moe.experts.0.w1.weight", "config.json calls for no such tensor"],
            ),
            (
                "a tied head that is not the embedding",
                sound().tensor(filled("lm_head.weight", &[512, 64], 0.0)).write(),
                vec![MODEL, "lm_head.weight", "model.embed_tokens.weight", "config.json ties"],
            ),
            (
                "no head",
                with_config(json!({"tie_word_embeddings": false})),
                vec![MODEL, "lm_head.weight is missing"],
            ),
            (
                "a fused matrix without its last part",
                {
                    let phi3 = Parts::of("phi3");
                    let name = "model.layers.1.self_attn.qkv_proj.weight";
                    phi3.change(name, |t| {
                        t.data.truncate(t.data.len() / t.shape[0] * (t.shape[0] - 1));
                        t.shape[0] -= 1;
                    })
                    .write()
                },
                vec![MODEL, "layers.1.self_attn.qkv_proj.weight", "expected ["],
            ),
        ]
    });
}

/// Mapped weights are not read to be checked; what is converted, or asked for, is.
#[test]
fn a_matrix_as_stored_is_searched_for_nan_when_that_is_asked_for() {
    let _alone = alone();
    let folder = sound().tensor(with_value(UP0, &[128, 64], 77, f32::NAN)).write();
    let stored = open(folder.source(), WeightFormat::Stored).expect("it is not read");
    let asked = stored.model().check_finite().expect_err("one is not finite").to_string();
    let converted = open(folder.source(), WeightFormat::Q8_0).expect_err("it is read").to_string();
    for message in [asked, converted] {
        for word in [MODEL, UP0, "NaN at element 77"] {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }
    let sound = open(Source::dir(family(BASE)), WeightFormat::Stored).expect("it is sound");
    assert!(sound.model().check_finite().is_ok());
}
