//! Adapters without files: factors of one rank on every linear module of a model's layers.

use std::borrow::Cow;

use interleaf_contract::Matrix;

use super::Drawn;
use crate::families::Module;
use crate::tensor_file::Tensor;
use crate::{Model, ModelError, PeftAdapter, PeftSite, WeightFormat};

/// What an adapter's output is beside the base's, roughly.
const SHARE: f64 = 0.1;

impl PeftAdapter {
    /// An adapter of random factors in f16 on every linear module of a model's layers, as large as a trained
    /// one's that matters: about a tenth of the base's outputs. Name and seed decide the factors.
    ///
    /// # Errors
    /// If a factor is too large for memory's bounds; none of a sensible rank is.
    pub fn generated(name: &str, rank: usize, seed: u64, base: &Model) -> Result<Self, ModelError> {
        let mut sites = Vec::new();
        let in_layers = |(module, path)| matches!(module, Module::Projection(..)).then_some(path);
        for path in base.linear_modules().filter_map(in_layers) {
            let Ok(linear) = base.linear(&path) else { continue };
            let [outputs, inputs] = linear.shape;
            let draw = |factor, rows: usize, cols: usize, variance| {
                let data =
                    Drawn::with_variance(seed, &format!("{name}.{path}.{factor}"), rows * cols, variance);
                Tensor::drawn(name, &path, Cow::Owned(vec![rows, cols]), data)
            };
            let a: Matrix = draw("lora_A", rank, inputs, 1.0 / inputs as f64).matrix(WeightFormat::F16)?;
            let b = draw("lora_B", outputs, rank, SHARE * SHARE / rank as f64);
            for (module, rows) in linear.parts {
                let (a, b) = (a.clone(), b.clone().rows(rows).matrix(WeightFormat::F16)?);
                let dtypes = [a.dtype(), b.dtype()];
                sites.push(PeftSite { module, rank, scale: 1.0, a, b, dtypes });
            }
        }
        let targets = "all linear modules of the layers".into();
        let (name, alpha) = (name.into(), rank as f64);
        Ok(Self { name, sites, rank, alpha, rslora: false, targets, invocation: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{llama, model_folder, phi3_config, phi3_tensors};
    use half::f16;
    use interleaf_contract::Dtype;

    fn values(matrix: &Matrix) -> Vec<f32> {
        let two = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        matrix.data().chunks_exact(2).map(two).collect()
    }

    #[test]
    fn every_projection_has_factors_of_its_own() {
        let (_folder, model) = llama();
        let adapter = PeftAdapter::generated("one", 4, 7, &model).unwrap();
        assert_eq!(adapter.sites.len(), 2 * 7);
        for site in &adapter.sites {
            assert_eq!((site.rank, site.a.rows(), site.b.cols(), site.dtypes), (4, 4, 4, [Dtype::F16; 2]));
            for factor in [&site.a, &site.b] {
                assert!(values(factor).iter().all(|v| v.is_finite() && v.abs() < 1.0));
                assert!(values(factor).iter().any(|v| *v != 0.0), "{}", site.module);
            }
        }
        assert_ne!(values(&adapter.sites[1].a), values(&adapter.sites[2].a));
    }

    #[test]
    fn names_and_seeds_decide_the_factors() {
        let (_folder, model) = llama();
        let digest = |name, seed| PeftAdapter::generated(name, 4, seed, &model).unwrap().digest();
        assert_eq!(digest("one", 7), digest("one", 7));
        assert_ne!(digest("one", 7), digest("two", 7));
        assert_ne!(digest("one", 7), digest("one", 8));
    }

    #[test]
    fn parts_of_a_fused_module_share_their_shrink_factor() {
        let folder = model_folder(&phi3_config(), &phi3_tensors());
        let model = Model::open(folder.source()).unwrap();
        let sites = PeftAdapter::generated("one", 2, 7, &model).unwrap().sites;
        let of = |part: &str| sites.iter().find(|site| site.module.ends_with(part)).unwrap();
        assert_eq!(of("#q").a.data().as_ptr(), of("#k").a.data().as_ptr());
        assert_eq!((of("#q").b.rows(), of("#k").b.rows()), (16, 8));
    }
}
