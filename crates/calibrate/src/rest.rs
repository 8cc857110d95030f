//! What chunks at rest cost: what the joint map leaves, in coefficients from few bytes to many, each measured as a rung of the
//! ladder is.

use interleaf_contract::{Bits, JointCodec};
use interleaf_model::Resting;
use interleaf_runtime::Engine;

use crate::ladder::{figures, outcomes, spread};
use crate::{CalibrateError, Codec, Parts, Subject, Windows};

/// Of coefficients the strongest, from the fewest bytes on: what is below costs most adapters more than a call allows.
const CODECS: [JointCodec; 4] = [
    JointCodec { rank: 64, bits: Bits::Four },
    JointCodec { rank: 96, bits: Bits::Four },
    JointCodec { rank: 128, bits: Bits::Four },
    JointCodec { rank: 128, bits: Bits::Eight },
];

/// Measures those that an adapter's calibration, whose ladder is there, has directions for, on windows as
/// [`ladder`](crate::ladder::ladder) does.
///
/// # Errors
/// If a window is too short, or the engine fails.
pub fn rest(
    engine: &mut Engine,
    subject: Subject<'_>,
    windows: &Windows,
    parts: Parts,
    done: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Resting>, CalibrateError> {
    let Some(calibration) = subject.calibration else { return Ok(Vec::new()) };
    let is_there = |codec: &JointCodec| way(*codec).is_in(calibration);
    let codecs: Vec<JointCodec> = CODECS.into_iter().filter(is_there).collect();
    let ways: Vec<Codec> = codecs.iter().map(|codec| way(*codec)).collect();
    let store = |prefix: &crate::prefix::Prefix<'_>, place: usize| prefix.store(ways[place]);
    let all = outcomes(engine, subject, windows, parts, ways.len(), store, done)?;
    let ladder = &calibration.ladder;
    let spread = spread(ladder, &all);
    let resting = codecs.into_iter().zip(&all).map(|(codec, outcomes)| {
        let [kl, factor, bound] = figures(ladder, outcomes, spread);
        Resting { codec, kl, factor, bound }
    });
    // What seems to cost nothing was not measured.
    Ok(resting.filter(|resting| resting.bound > 0.0 && resting.bound.is_finite()).collect())
}

fn way(codec: JointCodec) -> Codec {
    Codec::JointAnd { rank: usize::from(codec.rank), bits: codec.bits }
}
