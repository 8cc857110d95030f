//! What is known of an adapter's KV pages against the base's, in one file per model and adapter: where their difference
//! lies, how it is predicted, and what each codec cost when it was measured.
//!
//! Reads, checks and writes such a file. Making one runs the model and is `interleaf-calibrate`'s.
//!
//! The file is safetensors. Its one entry of metadata, `calibration`, is a JSON object that names the model and the adapter
//! by their digests. Everywhere a *channel* is `head_dim · kv_head + element`, keys are as they are before the rotary
//! embedding, and a difference is the adapter's minus the base's.

mod read;
mod write;

use interleaf_contract::{JointCodec, PageCodec};

use crate::Digest;

/// Raised when a file of old would mean something else now.
const VERSION: usize = 2;

/// The most directions that a basis has.
pub const MOST_DIRECTIONS: usize = 255;

/// A model's and an adapter's calibration.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The model.
    pub model: Digest,
    /// The adapter.
    pub adapter: Digest,
    /// What it was made from.
    pub made_from: MadeFrom,
    /// By layer.
    pub layers: Vec<LayerCalibration>,
    /// Over all layers at once; `None` of models that are too wide for it.
    pub joint: Option<JointCalibration>,
    /// What each codec cost, on windows that nothing was fitted to.
    pub measured: Vec<MeasuredCodec>,
    /// What pages may be stored as for a call that allows a loss.
    pub ladder: Ladder,
    /// And what chunks may be at rest, the smallest first: what [`Calibration::joint`] leaves. None where that was not measured
    /// so, as in files of old.
    pub rest: Vec<Resting>,
    /// What it costs to translate the base's pages by [`Calibration::joint`], by prefix and then by computed tokens, ascending.
    /// None where that was not measured, as in files of old.
    pub touches: Vec<MeasuredTouch>,
}

/// Mixes of codecs from few bytes to many, and what errors of each layer cost.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ladder {
    /// By layer, of keys and of values: the mean divergence of outputs, in nats, that reading the base's there costs, over
    /// the squared relative error that this is. 0 where there is no difference, of which nothing is known then; empty where
    /// that was not measured.
    pub sensitivities: Vec<[f32; 2]>,
    /// The smallest first.
    pub rungs: Vec<Rung>,
}

/// A way of storing a chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct Rung {
    /// By layer, of keys and of values: as what; `None` where the base's page stands for it.
    pub layers: Vec<[Option<PageCodec>; 2]>,
    /// The mean divergence of outputs over windows stored so, in nats; most of the windows were fitted to, too.
    pub kl: f32,
    /// What the divergence is at most, as a multiple of the sum of squared relative errors that are each weighted by their
    /// sensitivity: hardly any window exceeds it.
    pub factor: f32,
    /// The mean of that bound over the windows, in nats.
    pub bound: f32,
}

/// A way of storing a chunk's layers all at once. What its layers cost are the ladder's sensitivities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resting {
    /// Coefficients of what the joint map leaves.
    pub codec: JointCodec,
    /// As of a [`Rung`].
    pub kl: f32,
    /// Likewise.
    pub factor: f32,
    /// Likewise.
    pub bound: f32,
}

/// A prefix whose pages are translated from the base's, but for its last tokens, which the adapter computes over the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredTouch {
    /// Tokens of the prefix.
    pub prefix: usize,
    /// The last of them, which are computed.
    pub computed: usize,
    /// The mean divergence, over windows, of outputs after it, in nats.
    pub kl: f32,
    /// What hardly any window exceeds, in nats.
    pub bound: f32,
}

/// What a calibration was made from. Every window was run on its own, from position 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFrom {
    /// The text, in words.
    pub text: String,
    /// The text itself ([`Digest::of_bytes`]); `None` where that was not kept yet.
    pub text_digest: Option<Digest>,
    /// Tokens of a window.
    pub window_tokens: usize,
    /// Windows that everything was fitted to.
    pub fitted: usize,
    /// Windows that were held back, for measuring.
    pub held_back: usize,
    /// Tokens of a window that were decoded from a codec when it was measured; the tokens after them were scored.
    pub prefix_tokens: usize,
}

/// Of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerCalibration {
    /// The largest magnitude of each channel of the base's keys *after* the rotary embedding, as pages hold them, or a 256th
    /// of the largest of all where that is more: what a quantiser by channel divides by.
    pub profile: Vec<f32>,
    /// Keys.
    pub k: HalfCalibration,
    /// Values.
    pub v: HalfCalibration,
}

/// Of the keys or the values of one layer, of `width` channels.
#[derive(Debug, Clone, PartialEq)]
pub struct HalfCalibration {
    /// The mean difference, `width`.
    pub mean: Vec<f32>,
    /// Where the difference lies once its mean is taken off.
    pub basis: Directions,
    /// The difference as a linear map of the base's keys, its values and 1, of the same layer and token:
    /// `(2 · width + 1) × width`.
    pub prediction: Vec<f32>,
    /// Where what that leaves lies.
    pub residual: Directions,
}

/// Orthonormal directions, the strongest first. Of each the component of largest magnitude is positive, the first of
/// equals: codes of few bits reach further to one side than to the other, so that signs matter.
#[derive(Debug, Clone, PartialEq)]
pub struct Directions {
    /// `rank × width`.
    pub rows: Vec<f32>,
    /// The root of the mean square of each direction's coefficient: `rank`.
    pub deviations: Vec<f32>,
}

/// A map from the base's K and V of all layers to the difference of all layers, and where what it leaves lies.
///
/// Inputs are, for each layer, the base's keys and its values, then the token's embedding as it is stored, then 1. Outputs
/// are the differences of the keys and of the values of each layer.
#[derive(Debug, Clone, PartialEq)]
pub struct JointCalibration {
    /// `inputs × rank`. The map of a smaller rank is its first columns.
    pub down: Vec<f32>,
    /// `rank × outputs`, for outputs divided by their scale; a map of smaller rank is its first rows.
    pub up: Vec<f32>,
    /// What each layer's keys and values were divided by, so that each counts as much as the others: the root of the mean
    /// square of their difference, 0 where there is none. Two for each layer.
    pub scales: Vec<f32>,
    /// Directions over all outputs, divided by their scales.
    pub residual: Directions,
}

/// What a codec cost on the windows that were held back.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredCodec {
    /// Its name.
    pub codec: String,
    /// By layer, the root of the squared error of the keys over that of the adapter's own.
    pub k_errors: Vec<f32>,
    /// Of the values, likewise.
    pub v_errors: Vec<f32>,
    /// The mean divergence of the outputs from those over the adapter's own cache, Kullback–Leibler, in nats.
    pub kl: f32,
}

impl Directions {
    /// How many.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.deviations.len()
    }
}

impl JointCalibration {
    /// Columns between the two factors.
    #[must_use]
    pub fn rank(&self) -> usize {
        // Two outputs at least, or there is no map.
        (self.up.len() * self.residual.rank()).checked_div(self.residual.rows.len()).unwrap_or(0)
    }

    /// Bytes of its matrices in a file.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let residual = 2 * self.residual.rows.len() + 4 * self.residual.deviations.len();
        self.map_bytes(self.rank()) + residual as u64
    }

    /// Of those, the map's of a rank alone, without what it leaves.
    #[must_use]
    pub fn map_bytes(&self, rank: usize) -> u64 {
        let values = (self.down.len() + self.up.len()) / self.rank().max(1) * rank.min(self.rank());
        (2 * values + 4 * self.scales.len()) as u64
    }
}

impl Ladder {
    /// Whether it was measured that reading the base's pages costs nothing anywhere: the adapter changed none of them, or nothing
    /// that mattered.
    #[must_use]
    pub fn costs_nothing(&self) -> bool {
        !self.sensitivities.is_empty() && self.sensitivities.iter().flatten().all(|cost| *cost == 0.0)
    }

    /// Squared errors relative to what was exact, by layer, of keys and of values, each times what it costs: a rung's factor
    /// times as much is what the mean divergence of outputs is at most, in nats.
    #[must_use]
    pub fn weighted(&self, squares: &[[f64; 2]]) -> f64 {
        let costs = self.sensitivities.iter().flatten().zip(squares.iter().flatten());
        costs.map(|(cost, square)| f64::from(*cost) * square).sum()
    }
}

impl Calibration {
    /// The codec's measurement, if it was measured.
    #[must_use]
    pub fn of_codec(&self, codec: &str) -> Option<&MeasuredCodec> {
        self.measured.iter().find(|measured| measured.codec == codec)
    }
}

/// Tensors by their names.
mod names {
    pub const JOINT_DOWN: &str = "joint.down";
    pub const JOINT_UP: &str = "joint.up";
    pub const JOINT_SCALES: &str = "joint.scales";
    pub const JOINT_RESIDUAL: &str = "joint.residual";
    pub const K_ERRORS: &str = "measured.k_errors";
    pub const V_ERRORS: &str = "measured.v_errors";
    pub const KL: &str = "measured.kl";
    pub const SENSITIVITIES: &str = "ladder.sensitivities";
    pub const RUNGS: &str = "ladder.rungs";
    pub const REST: &str = "rest.figures";
    pub const TOUCHES: &str = "first_touch.figures";

    /// What stands for a codec where the base's page does for an adapter's.
    pub const SAME: &str = "same";

    /// Of a layer's profile.
    pub fn profile(layer: usize) -> String {
        format!("layers.{layer}.k.profile")
    }

    /// What the names of a half begin with.
    pub fn half(layer: usize, half: &str) -> String {
        format!("layers.{layer}.{half}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Folder, llama};
    use crate::{Model, ModelError};

    const FILE: &str = "calibration.safetensors";

    fn directions(rank: usize, width: usize) -> Directions {
        let rows = (0..rank * width).map(|i| if i % (width + 1) == 0 { 1.0 } else { 0.0 }).collect();
        Directions { rows, deviations: vec![0.5; rank] }
    }

    /// Of the fixture's Llama: 2 layers, 8 channels, hidden 8.
    fn calibration(model: &Model) -> Calibration {
        let half = |mean: f32| HalfCalibration {
            mean: vec![mean; 8],
            basis: directions(4, 8),
            prediction: vec![0.25; 17 * 8],
            residual: directions(4, 8),
        };
        let layer = LayerCalibration { profile: vec![2.0; 8], k: half(0.1), v: half(-0.1) };
        Calibration {
            model: model.digest(),
            adapter: Digest::from_bytes([7; 32]),
            made_from: MadeFrom {
                text: "a text".into(),
                text_digest: Some(Digest::of_bytes(b"a text")),
                window_tokens: 32,
                fitted: 3,
                held_back: 1,
                prefix_tokens: 16,
            },
            layers: vec![layer.clone(), layer],
            joint: Some(JointCalibration {
                down: vec![0.5; (4 * 8 + 8 + 1) * 2],
                up: vec![-0.5; 2 * 32],
                scales: vec![1.0, 0.0, 0.125, 1.0],
                residual: directions(3, 32),
            }),
            measured: vec![MeasuredCodec {
                codec: "base".into(),
                k_errors: vec![0.1, 0.2],
                v_errors: vec![0.3, 0.4],
                kl: 0.01,
            }],
            ladder: Ladder {
                sensitivities: vec![[0.0, 0.25], [0.5, 0.125]],
                rungs: vec![
                    Rung { layers: vec![[None, None]; 2], kl: 1e-3, factor: 1.5, bound: 2e-3 },
                    Rung {
                        layers: vec![
                            [None, PageCodec::named("delta-4")],
                            [PageCodec::named("low-rank-4-f16"), PageCodec::named("delta-2")],
                        ],
                        kl: 1e-4,
                        factor: 2.5,
                        bound: 2e-4,
                    },
                ],
            },
            touches: [(128, 16), (128, 64), (256, 16)]
                .map(|(prefix, computed)| MeasuredTouch { prefix, computed, kl: 1e-4, bound: 3e-4 })
                .into(),
            rest: vec![Resting {
                codec: JointCodec { rank: 3, bits: interleaf_contract::Bits::Four },
                kl: 1e-4,
                factor: 2.0,
                bound: 3e-4,
            }],
        }
    }

    fn read(folder: &Folder, model: &Model, adapter: Digest) -> Result<Calibration, ModelError> {
        Calibration::read(&folder.source(), FILE, model.config(), model.digest(), adapter)
    }

    #[test]
    fn what_was_written_is_read() {
        let (folder, model) = llama();
        let mut written = calibration(&model);
        for joint in [written.joint.clone(), None] {
            written.joint = joint;
            // There is nothing at rest without a map, and nothing translated.
            if written.joint.is_none() {
                written.rest.clear();
                written.touches.clear();
            }
            folder.write(FILE, written.to_bytes().unwrap());
            assert_eq!(read(&folder, &model, written.adapter).unwrap(), written);
        }
    }

    #[test]
    fn a_ladder_without_rungs_is_read_as_it_was_measured() {
        let (folder, model) = llama();
        let mut written = calibration(&model);
        written.ladder.rungs.clear();
        for (sensitivities, costs_nothing) in
            [(vec![[0.0; 2]; 2], true), (vec![[0.0, 0.5], [0.0; 2]], false), (vec![], false)]
        {
            written.ladder.sensitivities = sensitivities;
            folder.write(FILE, written.to_bytes().unwrap());
            let read = read(&folder, &model, written.adapter).unwrap();
            assert_eq!((read.ladder.costs_nothing(), &read), (costs_nothing, &written));
        }
    }

    #[test]
    fn another_models_or_adapters_file_is_refused_by_name() {
        let (folder, model) = llama();
        let mut written = calibration(&model);
        folder.write(FILE, written.to_bytes().unwrap());
        let error = read(&folder, &model, Digest::from_bytes([8; 32])).unwrap_err().to_string();
        assert!(error.contains(FILE) && error.contains("calibration: adapter must be 0808"), "{error}");
        written.model = Digest::from_bytes([1; 32]);
        folder.write(FILE, written.to_bytes().unwrap());
        let error = read(&folder, &model, written.adapter).unwrap_err().to_string();
        assert!(error.contains("calibration: model must be"), "{error}");
    }

    #[test]
    fn wrong_shapes_and_values_are_refused_by_tensor() {
        let (folder, model) = llama();
        let right = calibration(&model);
        let refused = |change: &dyn Fn(&mut Calibration), words: &[&str]| {
            let mut wrong = right.clone();
            change(&mut wrong);
            folder.write(FILE, wrong.to_bytes().unwrap());
            let error = read(&folder, &model, right.adapter).unwrap_err().to_string();
            words.iter().for_each(|word| assert!(error.contains(word), "{error}"));
        };
        refused(&|c| c.layers[1].profile.push(0.0), &["layers.1.k.profile", "[9]", "[8]"]);
        refused(&|c| c.layers[0].v.residual = directions(9, 8), &["rank", "from 1 to 8"]);
        refused(&|c| c.layers[0].v.prediction[3] = f32::NAN, &["layers.0.v.prediction", "element 3"]);
        refused(&|c| c.layers[0].profile[3] = -1.0, &["layers.0.k.profile", "below 0"]);
        refused(&|c| c.measured[0].kl = f32::INFINITY, &["measured.kl"]);
        refused(&|c| c.ladder.sensitivities[1][0] = -1.0, &["ladder.sensitivities", "below 0"]);
        refused(&|c| c.ladder.sensitivities.clear(), &["ladder.sensitivities", "[0, 2]", "[2, 2]"]);
        let one = |c: &mut Calibration| {
            c.ladder.rungs.clear();
            c.ladder.sensitivities.truncate(1);
        };
        refused(&one, &["ladder.sensitivities", "[1, 2]", "[2, 2]"]);
        refused(&|c| c.ladder.rungs[1].factor = -1.0, &["ladder.rungs", "below 0"]);
        refused(&|c| c.ladder.rungs[0].bound = 0.0, &["ladder.rungs", "not above 0"]);
        let deep = PageCodec::named("low-rank-8-f16");
        refused(&|c| c.ladder.rungs[1].layers[1][0] = deep, &["rungs", "directions", "low-rank-8-f16"]);
        let profiled = PageCodec::named("q4-profiled");
        refused(&|c| c.ladder.rungs[1].layers[1][1] = profiled, &["rungs", "q4-profiled"]);
        refused(&|c| c.rest[0].bound = 0.0, &["rest.figures", "not above 0"]);
        refused(&|c| c.rest[0].codec.rank = 4, &["rest", "joint+4-int4"]);
        refused(&|c| c.joint = None, &["rest", "joint+3-int4"]);
        refused(&|c| c.touches[0].bound = 0.0, &["first_touch.figures", "not above 0"]);
        refused(&|c| c.touches.swap(0, 1), &["first_touch", "ascending"]);
        refused(&|c| c.touches[1].computed = 129, &["first_touch", "of a prefix"]);
        refused(
            &|c| {
                c.rest.clear();
                c.joint = None;
            },
            &["first_touch", "a map"],
        );
        let one_layer = |c: &mut Calibration| {
            c.layers.truncate(1);
            c.measured.clear();
            c.ladder = Ladder::default();
            c.rest.clear();
            c.touches.clear();
        };
        refused(&one_layer, &["layers.1.k.profile is missing"]);
        refused(&|c| c.made_from.fitted = 0, &["fitted_windows"]);
    }

    #[test]
    fn the_digest_of_the_text_may_be_missing_and_is_not_guessed() {
        let (folder, model) = llama();
        let mut written = calibration(&model);
        let digest = written.made_from.text_digest.take().unwrap().to_string();
        let bytes = written.to_bytes().unwrap();
        folder.write(FILE, &bytes);
        assert_eq!(read(&folder, &model, written.adapter).unwrap(), written);
        written.made_from.text_digest = Digest::from_hex(&digest);
        let mut bytes = written.to_bytes().unwrap();
        let at = bytes.windows(digest.len()).position(|found| found == digest.as_bytes()).unwrap();
        bytes[at] = b'x';
        folder.write(FILE, &bytes);
        let error = read(&folder, &model, written.adapter).unwrap_err().to_string();
        assert!(error.contains("text_digest"), "{error}");
    }

    #[test]
    fn files_of_old_have_nothing_at_rest_and_translate_nothing() {
        let (folder, model) = llama();
        let mut written = calibration(&model);
        written.rest.clear();
        written.touches.clear();
        let bytes = written.to_bytes().unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(".figures"));
        folder.write(FILE, bytes);
        assert_eq!(read(&folder, &model, written.adapter).unwrap(), written);
    }

    #[test]
    fn files_that_are_no_calibrations_are_refused() {
        let (folder, model) = llama();
        let plain = crate::fixture::safetensors_bytes(&[crate::fixture::tensor_f32("a", &[1], &[0.0])]);
        folder.write(FILE, plain);
        let error = read(&folder, &model, Digest::from_bytes([7; 32])).unwrap_err().to_string();
        assert!(error.contains("__metadata__.calibration"), "{error}");
    }
}
