//! A model of unknown files, opened and read to its last weight.

use interleaf_contract::Matrix;
use interleaf_model::{Model, NormWeights, Proj, Source, WeightFormat};

const FORMATS: [WeightFormat; 5] =
    [WeightFormat::Stored, WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Q4_0];

/// Positions of which rotary factors are looked at.
const POSITIONS: usize = 3;

/// Whether there is a model. One that opens must be what its config says.
pub fn read(source: Source) -> bool {
    let model = match Model::open(source) {
        Ok(model) => model,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    check_config(&model);
    check_tensors(&model);
    assert_eq!(model.digest(), model.digest());
    assert!(model.tokenizer().expect("there is none").is_none());
    true
}

fn check_config(model: &Model) {
    let config = model.config();
    assert!(config.heads.is_multiple_of(config.kv_heads));
    assert_eq!(config.layer_kinds.len(), config.layers);
    assert!(config.layer_kinds.iter().all(|kind| kind.rope.is_none_or(|rope| rope < config.ropes.len())));
    assert!(config.layer_kinds.iter().all(|kind| kind.window != Some(0)));
    let scalars = [config.norm_epsilon, config.attention_scale, config.embedding_scale];
    assert!(scalars.iter().all(|s| s.is_finite() && *s > 0.0), "{scalars:?}");
    let caps = [config.attention_softcap, config.logit_softcap];
    assert!(caps.iter().flatten().all(|cap| cap.is_finite() && *cap > 0.0), "{caps:?}");
    for rope in &config.ropes {
        assert!(rope.rotary_dim.is_multiple_of(2) && rope.rotary_dim <= config.head_dim, "{rope:?}");
        let table = rope.table(POSITIONS);
        for factors in [table.cos, table.sin] {
            assert_eq!(factors.len(), POSITIONS * rope.rotary_dim / 2);
            assert!(factors.iter().all(|f| f.is_finite()), "{rope:?}");
        }
    }
}

/// A weight that is not finite or does not fit a format is refused when it is read; every other one has the
/// shape that the config says.
fn check_tensors(model: &Model) {
    let config = model.config();
    let finite = model.check_finite().is_ok();
    for format in FORMATS {
        let plain = finite && format == WeightFormat::Stored;
        let head_shape = [config.vocab_size, config.hidden_size];
        let embedding = model.embedding(format);
        assert!(embedding.is_ok() || !plain);
        embedding.iter().for_each(|matrix| check_matrix(matrix, head_shape));
        let head = model.head(format);
        assert!(head.is_ok() || !plain);
        head.iter().flatten().for_each(|matrix| check_matrix(matrix, head_shape));
        for layer in 0..config.layers {
            for proj in Proj::ALL {
                let weights = model.projection(layer, proj, format);
                assert!(weights.is_ok() || !plain);
                for weights in weights.iter() {
                    check_matrix(&weights.matrix, config.projection_shape(proj));
                    assert_eq!(weights.bias.is_some(), config.has_bias(proj));
                    let outputs = weights.matrix.rows();
                    assert!(weights.bias.iter().all(|b| b.len() == outputs));
                }
            }
        }
    }
    for layer in 0..config.layers {
        let always = [model.input_norm(layer), model.mlp_norm(layer)].map(|norm| norm.map(Some));
        let outer = [model.attention_out_norm(layer), model.mlp_out_norm(layer)];
        for norm in always.into_iter().chain(outer) {
            check_norm(norm.map_err(|_| finite), config.hidden_size);
        }
        for norm in [model.q_norm(layer), model.k_norm(layer)] {
            check_norm(norm.map_err(|_| finite), config.head_dim);
        }
    }
    check_norm(model.final_norm().map(Some).map_err(|_| finite), config.hidden_size);
    assert!(model.input_norm(config.layers).is_err());
}

fn check_matrix(matrix: &Matrix, shape: [usize; 2]) {
    assert_eq!([matrix.rows(), matrix.cols()], shape, "{}", matrix.name());
    assert_eq!(matrix.data().len(), matrix.rows() * matrix.row_bytes());
}

/// A norm, or whether all weights are finite, in which case it should have been one.
fn check_norm(norm: Result<Option<NormWeights>, bool>, len: usize) {
    match norm {
        Ok(norm) => {
            assert!(norm.iter().all(|n| n.values.len() == len && n.values.iter().all(|v| v.is_finite())))
        }
        Err(finite) => assert!(!finite, "finite weights, and a norm that cannot be read"),
    }
}
