//! `sample`: records the choice of tokens. What the kernel does is in `shaders/sample.wgsl`.

use std::collections::BTreeMap;

use bytemuck::{Pod, Zeroable};
use interleaf_contract::{BackendError, Sampled, Sampler, Tensor};

use crate::command::{Place, Recorder, word};
use crate::cost::Loads;
use crate::decide::LARGE;
use crate::kernel::{Access, Kernel, Needs, Template};
use crate::step::Plan;

/// The one kernel of this stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Variant;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    outputs: u32,
    records_at: u32,
    logits_at: u32,
    stride: u32,
    vocabulary: u32,
}

/// What the kernel writes where no logit is a number.
const NO_TOKEN: u32 = u32::MAX;

/// Where chosen tokens are in what is read back, and for which outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choices {
    at: usize,
    outputs: Vec<u32>,
}

impl Choices {
    /// The tokens, from all that was read back.
    pub(crate) fn tokens(&self, read_back: &[u8]) -> Vec<Sampled> {
        let words = read_back.get(self.at..).unwrap_or_default().as_chunks::<4>().0;
        let tokens = words.iter().map(|word| u32::from_le_bytes(*word));
        let sampled = |(&output, token)| Sampled { output, token: (token != NO_TOKEN).then_some(token) };
        self.outputs.iter().zip(tokens).map(sampled).collect()
    }
}

impl Variant {
    pub(crate) fn template(self) -> Template {
        let constants = vec![("WORKGROUP", LARGE.workgroup.to_string()), ("ROOT", LARGE.root.to_string())];
        let bindings = &[Access::Write, Access::Read, Access::Write, Access::Write];
        Template { name: "sample", constants, bindings, params: size_of::<Params>(), needs: Needs::Nothing }
    }

    /// Every variant, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        vec![Self]
    }
}

/// Records one operation; `None` where no output has a sampler. The tokens are also left where the next step may read
/// them, in a buffer that is not given back.
pub(crate) fn record(
    plan: &mut Plan<'_>,
    recorder: &mut Recorder<'_>,
    logits: Tensor,
) -> Result<Option<(Choices, wgpu::Buffer)>, BackendError> {
    let logits = plan.tensors.place(recorder, logits)?;
    let outputs = plan.step.batch().outputs.iter().zip(0_u32..);
    let samplers: Vec<(u32, &Sampler)> =
        outputs.filter_map(|(output, i)| Some((i, output.sampler.as_ref()?))).collect();
    if samplers.is_empty() {
        return Ok(None);
    }
    let tables = &mut recorder.recording.tables;
    let mut saved = 0;
    let mut records = Vec::new();
    for (row, sampler) in &samplers {
        let edits = edits(sampler);
        let mut list = Vec::new();
        for (token, (biases, penalised)) in &edits {
            list.extend([*token, word(tables.len()), word(biases.len()), u32::from(*penalised)]);
            tables.extend(biases.iter().map(|bias| bias.to_bits()));
        }
        let edits_at = word(tables.len());
        tables.extend(list);
        records.extend(record_words(*row, sampler, edits_at, word(edits.len()), saved));
        saved += word(edits.len());
    }
    let records_at = word(tables.len());
    tables.extend(records);
    let params = Params {
        outputs: word(samplers.len()),
        records_at,
        logits_at: word(logits.at),
        stride: word(logits.stride),
        vocabulary: logits.tensor.cols,
    };
    let bytes = |words: usize| (words * size_of::<u32>()) as u64;
    let saved = recorder.scratch.take(recorder.gpu, bytes(saved as usize))?;
    let tokens = recorder.scratch.take(recorder.gpu, bytes(samplers.len()))?;
    let places = vec![
        Place::Buffer(logits.buffer),
        Place::Tables,
        Place::Buffer(saved.clone()),
        Place::Buffer(tokens.clone()),
    ];
    // The largest, its place, and eight digits for each rule that a draw has.
    let passes = |s: &Sampler| match s.temperature {
        0.0 => 2,
        _ => 2 + 8 * (1 + u64::from(s.top_k > 0) + u64::from(s.top_p < 1.0)),
    };
    let passes: u64 = samplers.iter().map(|(_, sampler)| passes(sampler)).sum();
    let loads = Loads { activations: passes * bytes(params.vocabulary as usize), ..Loads::default() };
    recorder.dispatch(Kernel::Sample(Variant), &params, places, samplers.len() as u64, loads)?;
    let at = recorder.recording.read_back(Place::Buffer(tokens.clone()), 0, bytes(samplers.len())) as usize;
    recorder.scratch.give(&saved);
    Ok(Some((Choices { at, outputs: samplers.iter().map(|(output, _)| *output).collect() }, tokens)))
}

/// Biases of each token, in the order in which they are added, and whether the penalty applies to it.
fn edits(sampler: &Sampler) -> BTreeMap<u32, (Vec<f32>, bool)> {
    let mut edits: BTreeMap<u32, (Vec<f32>, bool)> = BTreeMap::new();
    for (token, bias) in &sampler.bias {
        edits.entry(*token).or_default().0.push(*bias);
    }
    if sampler.repeat_penalty != 1.0 {
        for token in &sampler.history {
            edits.entry(*token).or_default().1 = true;
        }
    }
    edits
}

fn record_words(row: u32, s: &Sampler, edits_at: u32, edits: u32, saved_at: u32) -> [u32; 13] {
    [
        row,
        // Minus zero is zero.
        (s.temperature + 0.0).to_bits(),
        s.top_p.to_bits(),
        s.min_p.to_bits(),
        s.repeat_penalty.to_bits(),
        s.top_k,
        s.seed as u32,
        (s.seed >> 32) as u32,
        s.sequence,
        s.step,
        edits_at,
        edits,
        saved_at,
    ]
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn parameters_are_laid_out_as_wgsl_has_them() {
        assert_eq!((size_of::<Params>(), offset_of!(Params, vocabulary)), (20, 16));
    }

    #[test]
    fn a_token_is_edited_once_whatever_is_said_of_it() {
        let bias = vec![(3, 1.0), (1, 2.0), (3, 0.5)];
        let sampler = Sampler { bias, history: vec![3, 7, 3], repeat_penalty: 1.5, ..Sampler::greedy() };
        let found: Vec<_> = edits(&sampler).into_iter().collect();
        assert_eq!(found, [(1, (vec![2.0], false)), (3, (vec![1.0, 0.5], true)), (7, (vec![], true))]);
        let free = Sampler { repeat_penalty: 1.0, ..sampler };
        assert_eq!(edits(&free).len(), 2);
    }

    #[test]
    fn what_was_not_chosen_is_no_token() {
        let choices = Choices { at: 4, outputs: vec![0, 2] };
        let bytes: Vec<u8> = [9_u32, 5, NO_TOKEN].iter().flat_map(|w| w.to_le_bytes()).collect();
        let expected = [Sampled { output: 0, token: Some(5) }, Sampled { output: 2, token: None }];
        assert_eq!(choices.tokens(&bytes), expected);
    }
}
