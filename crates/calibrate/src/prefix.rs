//! A prefix under the base and under an adapter, and what becomes of the adapter's cache through each codec.

use std::cell::OnceCell;

use interleaf_contract::{BackendError, Coefficients, ConstantRows, Matrix, PageCodec, PageHalf, RopeTable};
use interleaf_kernels_ref::joint_low_rank::{self, JointBasis, JointMap};
use interleaf_kernels_ref::weight;
use interleaf_model::{Calibration, HalfCalibration, JointCalibration, LayerCalibration, ModelConfig};
use interleaf_runtime::EngineError;

use crate::pages::{Form, through};
use crate::products::Pass;
use crate::turns::Turns;
use crate::{Anchor, CalibrateError, Codec, Kv, fit};

/// One prefix.
#[derive(Debug)]
pub struct Prefix<'a> {
    width: usize,
    kv_heads: usize,
    tokens: &'a [u32],
    base: Kv,
    own: Kv,
    /// The base's, keys turned back.
    inputs: Kv,
    /// Own minus base, keys turned back.
    difference: Kv,
    adapter: &'a str,
    /// Of the adapter's own pass.
    pass: Option<Pass<'a>>,
    calibration: Option<&'a Calibration>,
    embedding: &'a Matrix,
    turns: &'a Turns,
    /// Predicted differences, which several codecs begin with.
    predicted: OnceCell<Kv>,
    joint_inputs: OnceCell<Vec<f32>>,
    joint: OnceCell<Vec<f32>>,
}

/// The base's cache as its pages are stored, and the bytes of these.
pub fn anchored(anchor: Anchor, config: &ModelConfig, kv: &Kv) -> Stored {
    let mut bytes = 0;
    let layers = kv.layers.iter().map(|layer| {
        [PageHalf::K, PageHalf::V].map(|half| {
            let (form, values) = (Form::plain(anchor.codec()), &layer[half as usize]);
            let (values, stored) = through(&form, half, config.kv_heads, fit::width(config), values, values);
            bytes += stored;
            values
        })
    });
    Stored { kv: Kv { tokens: kv.tokens, layers: layers.collect() }, bytes }
}

/// What predictions are made with.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// For messages.
    pub adapter: &'a str,
    /// Of the adapter; without one there are only the codecs that need none.
    pub calibration: Option<&'a Calibration>,
    /// The model's.
    pub embedding: &'a Matrix,
    /// For prefixes at least as long.
    pub turns: &'a Turns,
}

/// A cache that was stored by a codec and read back.
#[derive(Debug)]
pub struct Stored {
    /// What was read back.
    pub kv: Kv,
    /// Bytes that were stored for the whole prefix, the base's not counted.
    pub bytes: usize,
}

impl<'a> Prefix<'a> {
    /// `base` is what its pages decode to; `pass` is of the adapter's own products, without which no codec keeps them.
    pub fn new(
        config: &ModelConfig,
        tokens: &'a [u32],
        [base, own]: [Kv; 2],
        pass: Option<Pass<'a>>,
        means: Means<'a>,
    ) -> Self {
        let width = fit::width(config);
        let unturned = |kv: &Kv| {
            let mut kv = kv.clone();
            let layers = kv.layers.iter_mut().enumerate();
            layers.for_each(|(layer, [keys, _])| means.turns.back(layer, keys, width));
            kv
        };
        let (inputs, mut difference) = (unturned(&base), unturned(&own));
        add(&mut difference, &inputs, -1.0);
        Self {
            width,
            kv_heads: config.kv_heads,
            tokens,
            base,
            own,
            inputs,
            difference,
            adapter: means.adapter,
            pass,
            calibration: means.calibration,
            embedding: means.embedding,
            turns: means.turns,
            predicted: OnceCell::new(),
            joint_inputs: OnceCell::new(),
            joint: OnceCell::new(),
        }
    }

    /// The adapter's own cache.
    pub fn own(&self) -> &Kv {
        &self.own
    }

    /// The base's.
    pub fn base(&self) -> &Kv {
        &self.base
    }

    /// What a codec makes of the adapter's cache.
    pub fn store(&self, codec: Codec) -> Result<Stored, CalibrateError> {
        Ok(match codec {
            Codec::Base => Stored { kv: self.base.clone(), bytes: 0 },
            Codec::MobiLora => self.by_page(&self.base, |_, _| Ok(Some(Form::Steps)))?,
            Codec::OwnProducts => {
                let none = || CalibrateError::NoProducts {
                    adapter: self.adapter.into(),
                    reason: "they were not given".into(),
                };
                let pass = self.pass.as_ref().ok_or_else(none)?;
                let form = |layer, half| Ok(Some(pass.form(layer, half, self.rope(layer, half))));
                self.by_page(&self.base, form)?
            }
            Codec::Page(codec) => {
                self.by_page(&self.base, |layer, half| self.form(codec, layer, half).map(Some))?
            }
            Codec::Predicted => self.over_base(self.predicted(codec)?.clone(), 0),
            Codec::PredictedAnd { rank, bits } => {
                let anchor = self.over_base(self.predicted(codec)?.clone(), 0).kv;
                let page =
                    PageCodec::LowRank { rank, coefficients: Coefficients::Codes(bits), keeps_first: false };
                self.by_page(&anchor, |layer, half| {
                    let calibrated = half_of(self.layer(Codec::Page(page), layer)?, half);
                    let rows = calibrated.residual.rows.iter().take(usize::from(rank) * self.width);
                    self.low_rank(page, layer, half, vec![0.0; self.width], rows).map(Some)
                })?
            }
            Codec::Joint { rank } => {
                let joint = self.joint_calibration(codec)?;
                let outputs = if rank == joint.rank() {
                    self.joint(joint).to_vec()
                } else {
                    joint_low_rank::predict(&map(joint), rank, self.joint_inputs())
                };
                self.over_base(self.parted(&outputs), 0)
            }
            Codec::JointAnd { rank, bits } => {
                let joint = self.joint_calibration(codec)?;
                let mut outputs = self.joint(joint).to_vec();
                let left: Vec<f32> =
                    self.joined(&self.difference).iter().zip(&outputs).map(|(d, p)| d - p).collect();
                let directions = &joint.residual.rows[..rank * self.outputs()];
                let basis = JointBasis { directions, rank, scales: &joint.scales };
                let bytes = joint_low_rank::encode(&basis, bits, &left);
                joint_low_rank::decode_onto(&basis, bits, &bytes, &mut outputs);
                self.over_base(self.parted(&outputs), bytes.len())
            }
        })
    }

    /// What a mix of codecs makes of it: for each layer one for keys and one for values, `None` where the base's stand for
    /// them.
    pub fn store_mixed(&self, mix: &[[Option<PageCodec>; 2]]) -> Result<Stored, CalibrateError> {
        self.by_page(&self.base, |layer, half| {
            let codec = mix.get(layer).and_then(|halves| halves[half as usize]);
            codec.map(|codec| self.form(codec, layer, half)).transpose()
        })
    }

    /// The base's cache with a difference added whose keys are turned back.
    fn over_base(&self, mut difference: Kv, bytes: usize) -> Stored {
        for (layer, [keys, _]) in difference.layers.iter_mut().enumerate() {
            self.turns.forth(layer, keys, self.width);
        }
        add(&mut difference, &self.base, 1.0);
        Stored { kv: difference, bytes }
    }

    /// The adapter's own cache through pages of a form for each layer's keys and values, over those of an anchor, which stand
    /// for them where there is none.
    fn by_page<'f>(
        &'f self,
        anchor: &Kv,
        form: impl Fn(usize, PageHalf) -> Result<Option<Form<'f>>, CalibrateError>,
    ) -> Result<Stored, CalibrateError> {
        let (mut layers, mut bytes) = (Vec::with_capacity(self.own.layers.len()), 0);
        for (layer, (own, anchor)) in self.own.layers.iter().zip(&anchor.layers).enumerate() {
            let mut store = |half: PageHalf| {
                let i = half as usize;
                let Some(form) = form(layer, half)? else { return Ok(anchor[i].clone()) };
                let (values, stored) = through(&form, half, self.kv_heads, self.width, &own[i], &anchor[i]);
                bytes += stored;
                Ok::<_, CalibrateError>(values)
            };
            layers.push([store(PageHalf::K)?, store(PageHalf::V)?]);
        }
        Ok(Stored { kv: Kv { tokens: self.own.tokens, layers }, bytes })
    }

    /// How a layer's pages are stored in a codec, and with what.
    fn form(&self, codec: PageCodec, layer: usize, half: PageHalf) -> Result<Form<'_>, CalibrateError> {
        Ok(match codec {
            PageCodec::Profiled(bits) if half == PageHalf::V => Form::plain(PageCodec::Quantised(bits)),
            PageCodec::Profiled(_) => {
                let profile = self.layer(Codec::Page(codec), layer)?.profile.clone();
                Form::Coded { codec, constants: self.resident(profile)?, rope: None }
            }
            PageCodec::LowRank { rank, .. } => {
                let calibrated = half_of(self.layer(Codec::Page(codec), layer)?, half);
                let rows = calibrated.basis.rows.iter().take(usize::from(rank) * self.width);
                self.low_rank(codec, layer, half, calibrated.mean.clone(), rows)?
            }
            _ => Form::plain(codec),
        })
    }

    fn low_rank<'r>(
        &self,
        codec: PageCodec,
        layer: usize,
        half: PageHalf,
        mut constants: Vec<f32>,
        rows: impl Iterator<Item = &'r f32>,
    ) -> Result<Form<'_>, CalibrateError> {
        constants.extend(rows);
        Ok(Form::Coded { codec, constants: self.resident(constants)?, rope: self.rope(layer, half) })
    }

    /// Constants as backends hold them.
    fn resident(&self, values: Vec<f32>) -> Result<Vec<f32>, CalibrateError> {
        let rows = ConstantRows::nearest(&values, self.kv_heads, self.width / self.kv_heads);
        Ok(rows.map_err(|error| EngineError::from(BackendError::from(error)))?.values())
    }

    /// What expanded keys are turned by.
    fn rope(&self, layer: usize, half: PageHalf) -> Option<&'a RopeTable> {
        self.turns.table(layer).filter(|_| half == PageHalf::K)
    }

    /// What is known of a layer.
    fn layer(&self, codec: Codec, layer: usize) -> Result<&'a LayerCalibration, CalibrateError> {
        let needed = "that layer";
        self.calibration(codec, "its basis")?
            .layers
            .get(layer)
            .ok_or_else(|| self.not_calibrated(codec, needed))
    }

    fn calibration(&self, codec: Codec, needed: &'static str) -> Result<&'a Calibration, CalibrateError> {
        self.calibration.ok_or_else(|| self.not_calibrated(codec, needed))
    }

    fn joint_calibration(&self, codec: Codec) -> Result<&'a JointCalibration, CalibrateError> {
        let needed = "a map over all layers";
        let joint = self.calibration(codec, needed)?.joint.as_ref();
        joint.ok_or_else(|| self.not_calibrated(codec, needed))
    }

    fn not_calibrated(&self, codec: Codec, needed: &'static str) -> CalibrateError {
        CalibrateError::NotCalibrated { codec: codec.to_string(), needed, adapter: self.adapter.into() }
    }

    /// The differences that each layer's prediction gives.
    fn predicted(&self, codec: Codec) -> Result<&Kv, CalibrateError> {
        let calibration = self.calibration(codec, "a prediction")?;
        Ok(self.predicted.get_or_init(|| {
            let layers = self.inputs.layers.iter().zip(&calibration.layers).map(|([k, v], layer)| {
                let mut x = Vec::with_capacity(self.tokens.len() * (2 * self.width + 1));
                for (k, v) in k.chunks_exact(self.width).zip(v.chunks_exact(self.width)) {
                    x.extend_from_slice(k);
                    x.extend_from_slice(v);
                    x.push(1.0);
                }
                let (inputs, width) = (2 * self.width + 1, self.width);
                [&layer.k, &layer.v]
                    .map(|half| joint_low_rank::linear(&x, inputs, &half.prediction, width, width))
            });
            Kv { tokens: self.tokens.len(), layers: layers.collect() }
        }))
    }

    fn outputs(&self) -> usize {
        2 * self.base.layers.len() * self.width
    }

    /// The joint map's inputs, tokens × inputs.
    fn joint_inputs(&self) -> &[f32] {
        self.joint_inputs.get_or_init(|| {
            let mut embedded = vec![0.0; self.embedding.cols()];
            let kv = self.joined(&self.inputs);
            let mut x = Vec::new();
            for (token, kv) in self.tokens.iter().zip(kv.chunks_exact(self.outputs())) {
                weight::decode_row(self.embedding, *token as usize, &mut embedded);
                x.extend_from_slice(kv);
                x.extend_from_slice(&embedded);
                x.push(1.0);
            }
            x
        })
    }

    /// The joint map's outputs at its full rank, tokens × outputs.
    fn joint(&self, joint: &JointCalibration) -> &[f32] {
        self.joint.get_or_init(|| joint_low_rank::predict(&map(joint), joint.rank(), self.joint_inputs()))
    }

    /// All layers of a token side by side.
    fn joined(&self, kv: &Kv) -> Vec<f32> {
        let mut out = Vec::with_capacity(kv.tokens * self.outputs());
        for token in 0..kv.tokens {
            let at = token * self.width..(token + 1) * self.width;
            kv.layers.iter().flatten().for_each(|half| out.extend_from_slice(&half[at.clone()]));
        }
        out
    }

    /// And back.
    fn parted(&self, joined: &[f32]) -> Kv {
        let tokens = self.tokens.len();
        let half = |matrix: usize| -> Vec<f32> {
            let rows = joined.chunks_exact(self.outputs());
            rows.flat_map(|row| &row[matrix * self.width..(matrix + 1) * self.width]).copied().collect()
        };
        let layers = (0..self.base.layers.len()).map(|layer| [half(2 * layer), half(2 * layer + 1)]);
        Kv { tokens, layers: layers.collect() }
    }
}

fn half_of(layer: &LayerCalibration, half: PageHalf) -> &HalfCalibration {
    match half {
        PageHalf::K => &layer.k,
        PageHalf::V => &layer.v,
    }
}

fn map(joint: &JointCalibration) -> JointMap<'_> {
    JointMap { down: &joint.down, up: &joint.up, rank: joint.rank(), scales: &joint.scales }
}

fn add(kv: &mut Kv, other: &Kv, factor: f32) {
    for (a, b) in kv.layers.iter_mut().flatten().zip(other.layers.iter().flatten()) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
    }
}
