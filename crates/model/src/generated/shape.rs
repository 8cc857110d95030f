//! The shapes that have names: those of public models, by their own `config.json`.

/// A public model's sizes and options, without its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// Its `config.json`.
    pub(crate) config: &'static str,
}

macro_rules! shape {
    ($name:literal) => {
        Shape { name: $name, config: include_str!(concat!("shapes/", $name, ".json")) }
    };
}

impl Shape {
    /// All of them, the smallest first.
    pub const ALL: [Self; 5] = [
        shape!("smollm2-135m"),
        shape!("qwen2.5-0.5b"),
        shape!("llama-3.2-1b"),
        shape!("llama-3.2-3b"),
        shape!("llama-3.1-8b"),
    ];

    /// The shape of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, Proj, RopeScaling, Source, TensorInfo, WeightFormat};
    use half::{bf16, f16};
    use interleaf_contract::Dtype;

    #[test]
    fn shapes_have_the_parameters_of_their_models() {
        for (name, parameters) in [
            ("smollm2-135m", 134_515_008),
            ("qwen2.5-0.5b", 494_032_768),
            ("llama-3.2-1b", 1_235_814_400),
            ("llama-3.2-3b", 3_212_749_824),
            ("llama-3.1-8b", 8_030_261_248),
        ] {
            let shape = Shape::named(name).unwrap();
            let model = Model::open(Source::Generated { shape, seed: 0 }).unwrap();
            let tensors = model.tensors();
            assert!(tensors.iter().all(|tensor| tensor.used && tensor.dtype == "bf16"));
            assert_eq!(tensors.iter().map(TensorInfo::elements).sum::<u64>(), parameters, "{name}");
        }
        assert_eq!(Shape::named("llama"), None);
    }

    #[test]
    fn shapes_have_the_options_of_their_models() {
        let open = |name| Model::open(Source::Generated { shape: Shape::named(name).unwrap(), seed: 0 });
        let llama = open("llama-3.2-1b").unwrap();
        let rope = llama.config().ropes[0];
        assert!(matches!(rope.scaling, RopeScaling::Llama3 { factor: 32.0, .. }), "{rope:?}");
        assert_eq!((rope.theta, llama.config().max_positions), (500_000.0, 131_072));
        let qwen = open("qwen2.5-0.5b").unwrap();
        assert!(qwen.config().biases.qkv && !qwen.config().biases.o && qwen.config().tied_head);
        assert!(qwen.config().layer_kinds.iter().all(|kind| kind.window.is_none()));
        assert!(!open("llama-3.1-8b").unwrap().config().tied_head);
        assert!(llama.tokenizer().unwrap().is_none() && llama.files().eq(["config.json"]));
    }

    #[test]
    fn weights_are_drawn_the_same_in_every_format() {
        let open = |seed| {
            let shape = Shape::named("smollm2-135m").unwrap();
            Model::open(Source::Generated { shape, seed }).unwrap()
        };
        let (model, again, other) = (open(1), open(1), open(2));
        let matrix = |model: &Model, format| model.projection(29, Proj::K, format).unwrap().matrix;
        let stored = matrix(&model, WeightFormat::Stored);
        assert_eq!(([stored.rows(), stored.cols()], stored.dtype()), ([192, 576], Dtype::Bf16));
        for format in [WeightFormat::Stored, WeightFormat::F16, WeightFormat::Q8_0, WeightFormat::Q4_0] {
            let drawn = matrix(&model, format);
            assert_eq!(drawn.data(), matrix(&again, format).data(), "{format:?}");
            assert_ne!(drawn.data(), matrix(&other, format).data(), "{format:?}");
        }
        // Converting what is stored and drawing in the format are the same.
        let value = |two: &[u8]| bf16::from_le_bytes([two[0], two[1]]);
        let converted: Vec<u8> = (stored.data().chunks_exact(2))
            .flat_map(|two| f16::from_f32(value(two).to_f32()).to_le_bytes())
            .collect();
        assert_eq!(matrix(&model, WeightFormat::F16).data()[..], converted);
        assert!(model.check_finite().is_ok());
    }
}
