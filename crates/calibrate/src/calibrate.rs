//! Calibrating one adapter: run, fit, measure.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_model::{Calibration, Digest, JointCalibration, Ladder, MadeFrom, MeasuredCodec};
use interleaf_runtime::Engine;

use crate::fit::{COMPARED, Fit};
use crate::kv::Kv;
use crate::ladder::ladder;
use crate::rest::rest;
use crate::touch::{Toucher, bounds};
use crate::turns::Turns;
use crate::{Anchor, CalibrateError, Codec, Measured, Parts, Subject, Windows, measure};

/// Every so-manieth window is held back from the fit, for measuring; the last one where there are fewer.
pub const HELD_BACK: usize = 8;

/// The most windows that the ladder is measured on.
const LADDER_WINDOWS: usize = 12;

/// The fewest tokens of a window: a page to be stored, and another one to read over it.
const FEWEST_TOKENS: usize = 2 * CHUNK_TOKENS;

/// Tells of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many windows have been run, of so many that are fitted to.
    Run(usize, usize),
    /// All windows have been run, and are fitted to.
    Fitting,
    /// So many measurements have been made, of so many.
    Measured(usize, usize),
}

/// Calibrates an adapter that is registered under a name; translations are measured of prefixes of so many tokens, ascending, such as
/// those of [`PREFIXES`](crate::PREFIXES) that fit. The engine must keep its pages as f32 and have room for two sequences as long
/// as the longest window, and as the longest prefix with [`CONTINUATION`](crate::CONTINUATION) tokens behind it.
///
/// # Errors
/// If there are fewer than two windows, or one is too short, or the engine fails.
pub fn calibrate(
    engine: &mut Engine,
    adapter: &str,
    digest: Digest,
    windows: &Windows,
    prefixes: &[usize],
    progress: &mut dyn FnMut(Progress),
) -> Result<Calibration, CalibrateError> {
    let (mut calibration, unseen, parts) = fitted(engine, adapter, digest, windows, progress)?;
    let held_back = unseen.held_back;
    let codecs: Vec<Codec> = Codec::ALL.into_iter().filter(|codec| codec.is_in(&calibration)).collect();
    let (mut done, total) = (0, codecs.len() * held_back.rows.len());
    let subject = Subject::calibrated(adapter, &calibration);
    let measured = measure(engine, subject, &held_back, parts, &codecs, &mut || {
        done += 1;
        progress(Progress::Measured(done, total));
    })?;
    calibration.measured = measured.iter().map(kept).collect();
    let some = read_and_crossed(windows, parts.prefix);
    let subject = Subject::calibrated(adapter, &calibration);
    calibration.ladder = ladder(engine, subject, &some, parts, &mut |done, total| {
        progress(Progress::Measured(done, total));
    })?;
    let subject = Subject::calibrated(adapter, &calibration);
    calibration.rest = rest(engine, subject, &some, parts, &mut |done, total| {
        progress(Progress::Measured(done, total));
    })?;
    // What acts from its invocation on has nothing to translate: until then its pages are the base's.
    if unseen.joint.is_some() && engine.invocation(adapter).is_none() {
        let toucher = Toucher { adapter, joint: unseen.joint.as_ref(), anchor: Anchor::F16 };
        calibration.touches = bounds(engine, toucher, &unseen.windows, prefixes, &mut |done, total| {
            progress(Progress::Measured(done, total));
        })?;
    }
    Ok(calibration)
}

/// What is there to measure on.
struct Unseen {
    /// Windows that nothing was fitted to.
    held_back: Windows,
    /// A map over all layers that was fitted to fewer windows, and those that it has not seen.
    joint: Option<JointCalibration>,
    windows: Windows,
}

/// Everything that is fitted, with nothing measured yet; what to measure on, and how that is parted.
fn fitted(
    engine: &mut Engine,
    adapter: &str,
    digest: Digest,
    windows: &Windows,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Calibration, Unseen, Parts), CalibrateError> {
    let (fitted, held_back) = part(windows)?;
    let shortest = windows.rows.iter().map(Vec::len).min().unwrap_or(0);
    let longest = windows.rows.iter().map(Vec::len).max().unwrap_or(0);
    let turns = Turns::new(engine.config(), longest);
    let mut fit = Fit::new(engine.model())?;
    for (done, row) in fitted.iter().enumerate() {
        progress(Progress::Run(done, fitted.len()));
        let base = Kv::compute(engine, None, row)?;
        let own = Kv::compute(engine, Some(adapter), row)?;
        fit.add(row, &base, &own, &turns);
    }
    progress(Progress::Fitting);
    let found = fit.finish()?;
    // Two thirds are stored, in whole pages, and the rest is read over them.
    let prefix = shortest * 2 / 3 / CHUNK_TOKENS * CHUNK_TOKENS;
    let parts = Parts { prefix, continuation: shortest - prefix };
    let calibration = Calibration {
        model: engine.model_digest(),
        adapter: digest,
        made_from: MadeFrom {
            text: windows.text.clone(),
            text_digest: Some(windows.digest),
            window_tokens: longest,
            fitted: fitted.len(),
            held_back: held_back.rows.len(),
            prefix_tokens: prefix,
        },
        layers: found.layers,
        joint: found.joint,
        measured: Vec::new(),
        ladder: Ladder::default(),
        rest: Vec::new(),
        touches: Vec::new(),
    };
    let left_out = fitted.iter().enumerate().filter(|(i, _)| (i + 1).is_multiple_of(COMPARED));
    let rows = left_out.map(|(_, row)| row.to_vec()).chain(held_back.rows.iter().cloned()).collect();
    let windows = Windows { text: windows.text.clone(), digest: windows.digest, rows };
    Ok((calibration, Unseen { held_back, joint: found.joint_of_others, windows }, parts))
}

fn kept(measured: &Measured) -> MeasuredCodec {
    let errors = |half: usize| measured.errors.iter().map(|errors| errors[half] as f32).collect();
    MeasuredCodec {
        codec: measured.codec.to_string(),
        k_errors: errors(0),
        v_errors: errors(1),
        kl: measured.divergence.mean() as f32,
    }
}

/// What the ladder is measured on: windows from all parts, as they are, and then each with the end of one that is half of all
/// windows away, as who comes from one text to another reads. Whether a codec was fitted to them does not matter, since errors
/// are measured too.
fn read_and_crossed(windows: &Windows, prefix: usize) -> Windows {
    let rows = &windows.rows;
    let step = rows.len().div_ceil(LADDER_WINDOWS / 2).max(1);
    let some = || (0..rows.len()).rev().step_by(step);
    let crossed = some().map(|i| {
        let other = &rows[(i + rows.len() / 2) % rows.len()];
        rows[i].iter().take(prefix).chain(other.iter().skip(prefix)).copied().collect()
    });
    let rows = some().map(|i| rows[i].clone()).chain(crossed).collect();
    Windows { text: windows.text.clone(), digest: windows.digest, rows }
}

/// Windows to be fitted to, and those held back.
fn part(windows: &Windows) -> Result<(Vec<&[u32]>, Windows), CalibrateError> {
    let refused = |field, expected: String, found: usize| CalibrateError::Windows {
        text: windows.text.clone(),
        field,
        expected,
        found: found.to_string(),
    };
    let count = windows.rows.len();
    if count < 2 {
        return Err(refused("windows", "at least 2".into(), count));
    }
    if let Some(row) = windows.rows.iter().find(|row| row.len() < FEWEST_TOKENS) {
        return Err(refused("tokens of a window", format!("at least {FEWEST_TOKENS}"), row.len()));
    }
    let is_held =
        |i: usize| if count < HELD_BACK { i + 1 == count } else { (i + 1).is_multiple_of(HELD_BACK) };
    let rows = || windows.rows.iter().enumerate();
    let fitted = rows().filter(|(i, _)| !is_held(*i)).map(|(_, row)| row.as_slice()).collect();
    let held = rows().filter(|(i, _)| is_held(*i)).map(|(_, row)| row.clone()).collect();
    Ok((fitted, Windows { text: windows.text.clone(), digest: windows.digest, rows: held }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use interleaf_demo_model as demo_model;
    use interleaf_runtime::{BackendChoice, EngineOptions, PageElement, Source};

    use super::*;
    use crate::read_windows;

    fn narrow(part: &str) -> Source {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-narrow-llama");
        Source::dir(data.join(part))
    }

    /// The mean divergence over an adapter's windows in the same document, with each codec of one map over all layers.
    fn joint(adapter: &str, codecs: &[Codec]) -> Vec<f64> {
        let options = EngineOptions {
            backend: BackendChoice::Cpu,
            pages: PageElement::F32,
            prefix_cache: false,
            ..EngineOptions::default()
        };
        let mut engine = Engine::open(narrow("base"), &options, &mut |_| ()).unwrap();
        let source = narrow(&format!("adapters/{adapter}"));
        let digest = engine.register_adapter(adapter, &source).unwrap().digest;
        let [prefix, continuation] = demo_model::EVALUATION_PARTS;
        engine.reserve_kv(2, prefix + continuation).unwrap();
        let (_, bytes) = demo_model::CALIBRATION.iter().find(|(name, _)| *name == adapter).unwrap();
        let windows = read_windows(adapter, bytes, "input_ids").unwrap();
        let (calibration, ..) = fitted(&mut engine, adapter, digest, &windows, &mut |_| ()).unwrap();
        let (setting, bytes) = demo_model::EVALUATION[0];
        let windows = read_windows(setting, bytes, &format!("{adapter}/input_ids")).unwrap();
        let (subject, parts) = (Subject::calibrated(adapter, &calibration), Parts { prefix, continuation });
        let measured = measure(&mut engine, subject, &windows, parts, codecs, &mut || ()).unwrap();
        measured.iter().map(|measured| measured.divergence.mean()).collect()
    }

    /// Against a study of another model that was written separately, in Python: its means over four adapters, each calibrated on
    /// twice as many tokens.
    #[test]
    fn joint_maps_are_those_of_the_study() {
        let rows = [("joint-128", 6.0e-4), ("joint+32-int4", 1.6e-4), ("joint+64-int4", 8e-5)];
        let codecs = rows.map(|(codec, _)| codec.parse().unwrap());
        let all =
            ["api-docs", "book-prose", "cargo-toml", "rust-code"].map(|adapter| joint(adapter, &codecs));
        for (place, (codec, study)) in rows.into_iter().enumerate() {
            let found = all.iter().map(|kl| kl[place]).sum::<f64>() / all.len() as f64;
            let ratio = found / study;
            assert!(ratio < 1.3 && ratio > 1.0 / 1.3, "{codec}: {found:.3e}, the study has {study:.3e}");
        }
    }

    fn windows(rows: Vec<Vec<u32>>) -> Windows {
        Windows { text: "t".into(), digest: Digest::of_bytes(b"t"), rows }
    }

    #[test]
    fn windows_are_read_as_they_are_and_crossed() {
        let rows: Vec<Vec<u32>> = (0..16).map(|i| vec![10 * i, 10 * i + 1, 10 * i + 2]).collect();
        let found = read_and_crossed(&windows(rows), 2).rows;
        assert_eq!(found.len(), 12);
        assert_eq!((&found[0], &found[1]), (&vec![150, 151, 152], &vec![120, 121, 122]));
        assert_eq!((&found[6], &found[7]), (&vec![150, 151, 72], &vec![120, 121, 42]));
    }

    #[test]
    fn windows_are_held_back() {
        let windows = |count: u32| windows((0..count).map(|i| vec![i; 32]).collect());
        let firsts = |count| {
            let windows = windows(count);
            let (fitted, held) = part(&windows).unwrap();
            (fitted.len(), held.rows.iter().map(|row| row[0]).collect::<Vec<_>>())
        };
        assert_eq!(firsts(16), (14, vec![7, 15]));
        assert_eq!(firsts(3), (2, vec![2]));
        assert!(part(&windows(1)).unwrap_err().to_string().contains("windows must be at least 2"));
    }
}
