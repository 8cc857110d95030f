//! A calibration as the bytes of its file.

use std::collections::HashMap;

use half::f16;
use interleaf_contract::PageCodec;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};
use serde_json::json;

use super::{Calibration, Directions, HalfCalibration, Rung, VERSION, names};
use crate::ModelError;

/// A tensor to be written.
struct Written {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Tensors in the order that they are written in.
#[derive(Default)]
struct Tensors(Vec<Written>);

impl Tensors {
    /// As f32.
    fn exact(&mut self, name: impl Into<String>, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.0.push(Written { name: name.into(), dtype: Dtype::F32, shape: shape.into(), bytes });
    }

    /// A matrix as f16.
    fn rounded(&mut self, name: impl Into<String>, rows: usize, values: &[f32]) {
        let shape = vec![rows, values.len().checked_div(rows).unwrap_or(0)];
        let bytes = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        self.0.push(Written { name: name.into(), dtype: Dtype::F16, shape, bytes });
    }

    fn directions(&mut self, name: &str, directions: &Directions) {
        self.rounded(name, directions.rank(), &directions.rows);
        self.exact(format!("{name}.deviations"), &[directions.rank()], &directions.deviations);
    }

    fn half(&mut self, prefix: &str, half: &HalfCalibration) {
        self.exact(format!("{prefix}.mean"), &[half.mean.len()], &half.mean);
        self.directions(&format!("{prefix}.basis"), &half.basis);
        self.rounded(format!("{prefix}.prediction"), 2 * half.mean.len() + 1, &half.prediction);
        self.directions(&format!("{prefix}.residual"), &half.residual);
    }
}

impl Calibration {
    /// The bytes of its file. Bases and maps are rounded to f16; whoever fits them rounds them first and fits what follows
    /// from them to that. The same calibration always has the same bytes.
    ///
    /// # Errors
    /// If parts of it are not of one size.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let refused = |error: SafeTensorError| ModelError::Safetensors {
            file: format!("the calibration of adapter {}", self.adapter),
            reason: error.to_string(),
        };
        let mut tensors = Tensors::default();
        for (i, layer) in self.layers.iter().enumerate() {
            tensors.exact(names::profile(i), &[layer.profile.len()], &layer.profile);
            tensors.half(&names::half(i, "k"), &layer.k);
            tensors.half(&names::half(i, "v"), &layer.v);
        }
        if let Some(joint) = &self.joint {
            let rank = joint.rank();
            tensors.rounded(names::JOINT_DOWN, joint.down.len().checked_div(rank).unwrap_or(0), &joint.down);
            tensors.rounded(names::JOINT_UP, rank, &joint.up);
            tensors.exact(names::JOINT_SCALES, &[joint.scales.len()], &joint.scales);
            tensors.directions(names::JOINT_RESIDUAL, &joint.residual);
        }
        let (codecs, layers) = (self.measured.len(), self.layers.len());
        let errors = |of: fn(&super::MeasuredCodec) -> &[f32]| -> Vec<f32> {
            self.measured.iter().flat_map(|measured| of(measured).iter().copied()).collect()
        };
        tensors.exact(names::K_ERRORS, &[codecs, layers], &errors(|measured| &measured.k_errors));
        tensors.exact(names::V_ERRORS, &[codecs, layers], &errors(|measured| &measured.v_errors));
        let kl: Vec<f32> = self.measured.iter().map(|measured| measured.kl).collect();
        tensors.exact(names::KL, &[codecs], &kl);
        let sensitivities: Vec<f32> = self.ladder.sensitivities.iter().flatten().copied().collect();
        tensors.exact(names::SENSITIVITIES, &[sensitivities.len() / 2, 2], &sensitivities);
        let rungs: Vec<f32> =
            self.ladder.rungs.iter().flat_map(|rung| [rung.kl, rung.factor, rung.bound]).collect();
        tensors.exact(names::RUNGS, &[self.ladder.rungs.len(), 3], &rungs);
        if !self.rest.is_empty() {
            let rest: Vec<f32> =
                self.rest.iter().flat_map(|rest| [rest.kl, rest.factor, rest.bound]).collect();
            tensors.exact(names::REST, &[self.rest.len(), 3], &rest);
        }
        if !self.touches.is_empty() {
            let touches: Vec<f32> = self.touches.iter().flat_map(|touch| [touch.kl, touch.bound]).collect();
            tensors.exact(names::TOUCHES, &[self.touches.len(), 2], &touches);
        }

        // One entry, so that its order is not a hash's.
        let metadata = HashMap::from([("calibration".to_owned(), self.header())]);
        let views = tensors
            .0
            .iter()
            .map(|t| TensorView::new(t.dtype, t.shape.clone(), &t.bytes).map(|view| (t.name.as_str(), view)));
        let views = views.collect::<Result<Vec<_>, _>>().map_err(refused)?;
        safetensors::serialize(views, Some(metadata)).map_err(refused)
    }

    fn header(&self) -> String {
        let from = &self.made_from;
        let rank = self.layers.first().map_or(0, |layer| layer.k.basis.rank());
        let residual_rank = self.layers.first().map_or(0, |layer| layer.v.residual.rank());
        let codecs: Vec<&str> = self.measured.iter().map(|measured| measured.codec.as_str()).collect();
        let rungs: Vec<Vec<[String; 2]>> = self.ladder.rungs.iter().map(rung_names).collect();
        json!({
            "version": VERSION,
            "model": self.model.to_string(),
            "adapter": self.adapter.to_string(),
            "text": from.text,
            "text_digest": from.text_digest.map(|digest| digest.to_string()),
            "window_tokens": from.window_tokens,
            "fitted_windows": from.fitted,
            "held_back_windows": from.held_back,
            "prefix_tokens": from.prefix_tokens,
            "rank": rank,
            "residual_rank": residual_rank,
            "joint_rank": self.joint.as_ref().map(super::JointCalibration::rank),
            "joint_residual_rank": self.joint.as_ref().map(|joint| joint.residual.rank()),
            "codecs": codecs,
            "rungs": rungs,
            "first_touch": self.touches.iter().map(|touch| [touch.prefix, touch.computed]).collect::<Vec<_>>(),
            "rest": self.rest.iter().map(|rest| rest.codec.to_string()).collect::<Vec<_>>(),
        })
        .to_string()
    }
}

fn rung_names(rung: &Rung) -> Vec<[String; 2]> {
    let name = |codec: &Option<PageCodec>| codec.map_or(names::SAME.to_owned(), |codec| codec.to_string());
    rung.layers.iter().map(|[k, v]| [name(k), name(v)]).collect()
}
