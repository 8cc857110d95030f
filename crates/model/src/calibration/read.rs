//! A calibration from its file: bound to its model and adapter, and every tensor checked.

use interleaf_contract::{JointCodec, PageCodec, PageHalf};

use super::{
    Calibration, Directions, HalfCalibration, JointCalibration, Ladder, LayerCalibration, MOST_DIRECTIONS,
    MadeFrom, MeasuredCodec, MeasuredTouch, Resting, Rung, VERSION, names,
};
use crate::config::limits;
use crate::json::Object;
use crate::tensor_file::TensorFile;
use crate::{Digest, ModelConfig, ModelError, Source};

/// The metadata's one entry.
const HEADER: &str = "calibration";

/// The most codecs of which there are measurements.
const MOST_CODECS: usize = 1 << 10;

/// The most rungs of a ladder.
const MOST_RUNGS: usize = 64;

/// The most prefixes and numbers of computed tokens that translations were measured of.
const MOST_TOUCHES: usize = 256;

/// A file, and the sizes that its tensors follow from.
struct Reader<'a> {
    file: &'a TensorFile,
    layers: usize,
    /// Channels of K, or of V, in a layer.
    width: usize,
    rank: usize,
    residual_rank: usize,
}

impl Calibration {
    /// Reads a calibration. `model` and `adapter` are the digests of what it is to be for, `config` the model's.
    ///
    /// # Errors
    /// If the file is missing or damaged, is of another version, model or adapter, lacks a tensor, or a tensor has the wrong
    /// shape or a value that is not finite.
    pub fn read(
        source: &Source,
        file: &str,
        config: &ModelConfig,
        model: Digest,
        adapter: Digest,
    ) -> Result<Self, ModelError> {
        let file = &TensorFile::open(source, file)?;
        let header = Object::of_metadata(file, HEADER)?;
        let version = header.size("version", limits::LONG)?;
        if version != VERSION {
            return Err(header.unsupported("version", VERSION.to_string()));
        }
        for (field, digest) in [("model", model), ("adapter", adapter)] {
            let found = header.string(field)?.and_then(Digest::from_hex);
            if found != Some(digest) {
                return Err(header.error(field, digest.to_string()));
            }
        }
        let text_digest = match header.string("text_digest")? {
            None => None,
            Some(text) => {
                let wrong = || header.error("text_digest", "64 hexadecimal digits");
                Some(Digest::from_hex(text).ok_or_else(wrong)?)
            }
        };
        let made_from = MadeFrom {
            text: header.string("text")?.ok_or_else(|| header.error("text", "a string"))?.into(),
            text_digest,
            window_tokens: header.size("window_tokens", limits::LONG)?,
            fitted: header.size("fitted_windows", limits::LONG)?,
            held_back: header.size("held_back_windows", limits::LONG)?,
            prefix_tokens: header.size("prefix_tokens", limits::LONG)?,
        };
        let width = config.kv_heads * config.head_dim;
        let most = width.min(MOST_DIRECTIONS);
        let reader = Reader {
            file,
            layers: config.layers,
            width,
            rank: header.size("rank", most)?,
            residual_rank: header.size("residual_rank", most)?,
        };
        let joint = match header.optional_size("joint_rank", MOST_DIRECTIONS)? {
            None => None,
            Some(rank) => {
                let residual_rank = header.size("joint_residual_rank", MOST_DIRECTIONS)?;
                Some(reader.joint(config.hidden_size, rank, residual_rank)?)
            }
        };
        let rest = reader.rest(&header, joint.as_ref())?;
        let touches = reader.touches(&header, joint.is_some())?;
        Ok(Self {
            model,
            adapter,
            made_from,
            layers: (0..config.layers).map(|layer| reader.layer(layer)).collect::<Result<_, _>>()?,
            joint,
            measured: reader.measured(&header)?,
            ladder: reader.ladder(&header)?,
            rest,
            touches,
        })
    }
}

impl Reader<'_> {
    fn layer(&self, layer: usize) -> Result<LayerCalibration, ModelError> {
        Ok(LayerCalibration {
            profile: self.costs(&names::profile(layer), &[self.width])?,
            k: self.half(&names::half(layer, "k"))?,
            v: self.half(&names::half(layer, "v"))?,
        })
    }

    fn half(&self, prefix: &str) -> Result<HalfCalibration, ModelError> {
        let width = self.width;
        Ok(HalfCalibration {
            mean: self.values(&format!("{prefix}.mean"), &[width])?,
            basis: self.directions(&format!("{prefix}.basis"), self.rank, width)?,
            prediction: self.values(&format!("{prefix}.prediction"), &[2 * width + 1, width])?,
            residual: self.directions(&format!("{prefix}.residual"), self.residual_rank, width)?,
        })
    }

    fn joint(&self, hidden: usize, rank: usize, residual: usize) -> Result<JointCalibration, ModelError> {
        let outputs = 2 * self.layers * self.width;
        Ok(JointCalibration {
            down: self.values(names::JOINT_DOWN, &[outputs + hidden + 1, rank])?,
            up: self.values(names::JOINT_UP, &[rank, outputs])?,
            scales: self.values(names::JOINT_SCALES, &[2 * self.layers])?,
            residual: self.directions(names::JOINT_RESIDUAL, residual, outputs)?,
        })
    }

    fn directions(&self, name: &str, rank: usize, width: usize) -> Result<Directions, ModelError> {
        Ok(Directions {
            rows: self.values(name, &[rank, width])?,
            deviations: self.values(&format!("{name}.deviations"), &[rank])?,
        })
    }

    fn measured(&self, header: &Object) -> Result<Vec<MeasuredCodec>, ModelError> {
        let expected = || header.error("codecs", format!("a list of at most {MOST_CODECS} names"));
        let list = header.list("codecs")?.filter(|list| list.len() <= MOST_CODECS).ok_or_else(expected)?;
        let codecs: Option<Vec<&str>> = list.iter().map(serde_json::Value::as_str).collect();
        let codecs = codecs.ok_or_else(expected)?;
        let shape = [codecs.len(), self.layers];
        let k_errors = self.values(names::K_ERRORS, &shape)?;
        let v_errors = self.values(names::V_ERRORS, &shape)?;
        let kl = self.values(names::KL, &[codecs.len()])?;
        let of =
            |errors: &[f32], codec: usize| errors[codec * self.layers..(codec + 1) * self.layers].to_vec();
        let measured = codecs.iter().zip(kl).enumerate().map(|(i, (codec, kl))| MeasuredCodec {
            codec: (*codec).into(),
            k_errors: of(&k_errors, i),
            v_errors: of(&v_errors, i),
            kl,
        });
        Ok(measured.collect())
    }

    fn ladder(&self, header: &Object) -> Result<Ladder, ModelError> {
        let refused = |expected: String| header.error("rungs", expected);
        let list = header.list("rungs")?.filter(|list| list.len() <= MOST_RUNGS);
        let list = list.ok_or_else(|| refused(format!("a list of at most {MOST_RUNGS}")))?;
        let rungs = list.iter().map(|rung| {
            let names: Vec<[String; 2]> = serde_json::from_value(rung.clone())
                .map_err(|e| refused(format!("names for layers: {e}")))?;
            if names.len() != self.layers {
                return Err(refused(format!("names for each of {} layers", self.layers)));
            }
            let layer = |[k, v]: &[String; 2]| {
                let page = |half, name: &str| match name {
                    names::SAME => Ok(None),
                    _ => self.page_codec(half, name).map(Some).map_err(refused),
                };
                Ok([page(PageHalf::K, k)?, page(PageHalf::V, v)?])
            };
            names.iter().map(layer).collect::<Result<Vec<_>, ModelError>>()
        });
        let rungs = rungs.collect::<Result<Vec<_>, ModelError>>()?;
        // One that was not measured has neither.
        let is_measured = !rungs.is_empty() || self.file.get(names::SENSITIVITIES)?.shape() != [0, 2];
        let layers = if is_measured { self.layers } else { 0 };
        let sensitivities = self.costs(names::SENSITIVITIES, &[layers, 2])?;
        let figures = self.figures(names::RUNGS, rungs.len())?;
        let rung = |(layers, [kl, factor, bound]): (_, [f32; 3])| Rung { layers, kl, factor, bound };
        Ok(Ladder {
            sensitivities: sensitivities.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect(),
            rungs: rungs.into_iter().zip(figures).map(rung).collect(),
        })
    }

    /// What may be at rest, of a map that there is.
    fn rest(&self, header: &Object, joint: Option<&JointCalibration>) -> Result<Vec<Resting>, ModelError> {
        let Some(list) = header.list("rest")? else { return Ok(Vec::new()) };
        let refused = |found: String| header.error("rest", format!("codecs of the joint map, not {found}"));
        let most = joint.map_or(0, |joint| joint.residual.rank());
        let codec = |name: &serde_json::Value| {
            let codec = name.as_str().and_then(JointCodec::named);
            let is_there = |codec: &JointCodec| usize::from(codec.rank) <= most;
            codec.filter(is_there).ok_or_else(|| refused(name.to_string()))
        };
        if list.len() > MOST_RUNGS {
            return Err(refused(format!("{} of them", list.len())));
        }
        let codecs = list.iter().map(codec).collect::<Result<Vec<_>, _>>()?;
        if codecs.is_empty() {
            return Ok(Vec::new());
        }
        let figures = self.figures(names::REST, codecs.len())?;
        let rest = |(codec, [kl, factor, bound]): (_, [f32; 3])| Resting { codec, kl, factor, bound };
        Ok(codecs.into_iter().zip(figures).map(rest).collect())
    }

    /// What translating costs, by a map that there is.
    fn touches(&self, header: &Object, has_map: bool) -> Result<Vec<MeasuredTouch>, ModelError> {
        let Some(list) = header.list("first_touch")?.filter(|list| !list.is_empty()) else {
            return Ok(Vec::new());
        };
        let refused = |expected: &str| header.error("first_touch", expected);
        if !has_map || list.len() > MOST_TOUCHES {
            return Err(refused("nothing without a map, and not more than was measured"));
        }
        let pair = |pair: &serde_json::Value| serde_json::from_value::<[usize; 2]>(pair.clone()).ok();
        let pairs: Option<Vec<[usize; 2]>> = list.iter().map(pair).collect();
        let pairs = pairs.ok_or_else(|| refused("pairs of numbers of tokens"))?;
        if pairs.windows(2).any(|pair| pair[1] <= pair[0]) {
            return Err(refused("pairs in ascending order"));
        }
        if pairs.iter().any(|[prefix, computed]| *prefix > limits::LONG || computed > prefix) {
            return Err(refused("the tokens of a prefix, and those of them that are computed"));
        }
        let figures = self.costs(names::TOUCHES, &[pairs.len(), 2])?;
        if figures.chunks_exact(2).any(|pair| pair[1] <= 0.0) {
            return Err(self.file.get(names::TOUCHES)?.refusal("a bound is not above 0"));
        }
        let touch = |([prefix, computed], figures): ([usize; 2], &[f32])| {
            let (kl, bound) = (figures[0], figures[1]);
            MeasuredTouch { prefix, computed, kl, bound }
        };
        Ok(pairs.into_iter().zip(figures.chunks_exact(2)).map(touch).collect())
    }

    /// Divergence, factor and bound of each of so many ways of storing.
    fn figures(&self, name: &str, count: usize) -> Result<Vec<[f32; 3]>, ModelError> {
        let figures = self.costs(name, &[count, 3])?;
        let figures: Vec<[f32; 3]> = figures.chunks_exact(3).map(|all| [all[0], all[1], all[2]]).collect();
        match figures.iter().any(|[_, factor, bound]| *factor <= 0.0 || *bound <= 0.0) {
            true => Err(self.file.get(name)?.refusal("a factor or a bound is not above 0")),
            false => Ok(figures),
        }
    }

    /// A codec of pages over the base's, with no more directions than there are.
    fn page_codec(&self, half: PageHalf, name: &str) -> Result<PageCodec, String> {
        let is_lawful = |codec: &PageCodec| codec.is_sound(half) && !matches!(codec, PageCodec::Profiled(_));
        let codec =
            PageCodec::named(name).filter(is_lawful).ok_or_else(|| format!("codecs, not {name:?}"))?;
        match codec {
            PageCodec::LowRank { rank, .. } if usize::from(rank) > self.rank => {
                Err(format!("at most {} directions, not those of {name}", self.rank))
            }
            codec => Ok(codec),
        }
    }

    /// All elements of a tensor, none below 0.
    fn costs(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let values = self.values(name, shape)?;
        match values.iter().any(|value| *value < 0.0) {
            true => Err(self.file.get(name)?.refusal("a value is below 0")),
            false => Ok(values),
        }
    }

    /// All elements of a tensor, finite, as f32.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let tensor = self.file.get(name)?;
        tensor.expect(shape)?;
        tensor.vector()
    }
}
