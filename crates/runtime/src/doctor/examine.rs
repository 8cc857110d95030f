//! Examines every adapter: its kernels against the reference, variant by variant, then its speed against the CPU's.

use std::sync::{Mutex, PoisonError};

use interleaf_contract::{Backend, BackendError, Numerics};
use interleaf_cpu::{CpuKernels, CpuOptions};
use interleaf_gpu::{GpuAdapter, GpuBackend, GpuOptions, GpuTier, GpuVariant};
use interleaf_kernels_ref::RefKernels;

use super::checks::{Answer, Check};
use super::race::{Times, time};
use super::{AdapterReport, Examination, VariantReport, Verdict};
use crate::{EngineOptions, Store};

/// The largest error, as a share of the largest value, that rounding explains; a wrong kernel is off by far more.
const RIGHT: f64 = 1e-4;

/// The same where values are rounded on the way: weights to f16, each off by up to 2⁻¹¹, or activations to codes, of
/// which a device that divides less exactly may round some the other way.
const RIGHT_ROUNDED: f64 = 5e-3;

/// Examines every adapter and keeps the verdicts. `progress` hears what is being done.
#[must_use]
pub fn examine(store: &Store, progress: &mut dyn FnMut(&str)) -> Examination {
    let mut adapters = Vec::new();
    let mut keys = Vec::new();
    let mut references = References::default();
    let mut best: Option<(f64, String)> = None;
    let mut cpu = None;
    for adapter in interleaf_gpu::adapters() {
        keys.push(adapter.key());
        let (report, verdict) = adapter_report(&adapter, &mut references, &mut cpu, progress);
        if let Some(verdict) = verdict {
            if let Some(times) = verdict.faster
                && best.as_ref().is_none_or(|(most, _)| times > *most)
            {
                best = Some((times, report.name.clone()));
            }
            store.keep_verdict(verdict);
        }
        adapters.push(report);
    }
    store.forget_verdicts_but(&keys);
    let (auto, because) = match best {
        Some((times, name)) => (
            format!("gpu ({name})"),
            format!("it generates {times:.1} times as fast as the CPU, and prompts are no slower"),
        ),
        None if adapters.is_empty() => ("cpu".into(), "there is no GPU".into()),
        None => ("cpu".into(), "no GPU is right and faster".into()),
    };
    Examination { adapters, auto, because }
}

fn adapter_report(
    adapter: &GpuAdapter,
    references: &mut References,
    cpu: &mut Option<Times>,
    progress: &mut dyn FnMut(&str),
) -> (AdapterReport, Option<Verdict>) {
    let options = GpuOptions {
        key: Some(adapter.key()),
        numerics: EngineOptions::default().numerics,
        ..GpuOptions::default()
    };
    let mut variants = Vec::new();
    let mut failed_now = false;
    for variant in std::iter::once(None).chain(GpuVariant::ALL.map(Some)) {
        let name = variant.map_or_else(|| format!("best ({})", adapter.suits), |v| v.name().to_owned());
        progress(&format!("{}: the {name} kernels", adapter.name));
        let outcome = right(GpuOptions { variant, ..options.clone() }, references);
        let (right, detail) = match outcome {
            Ok(error) => (Some(true), format!("off by {error:.1e} at most")),
            Err(Outcome::Missing(reason)) => (None, reason),
            Err(Outcome::FailedNow(reason)) => {
                failed_now = true;
                (None, reason)
            }
            Err(Outcome::Wrong(reason)) => (Some(false), reason),
        };
        variants.push((variant, VariantReport { name, right, detail }));
    }
    let right = |v: &&(Option<GpuVariant>, VariantReport)| v.1.right == Some(true);
    let order = |v: &GpuVariant| CANDIDATES.contains(&Some(*v));
    let chosen = variants.iter().filter(|(v, _)| v.is_none_or(|v| order(&v))).find(right);
    let faster = chosen.and_then(|(variant, _)| {
        progress(&format!("{}: its speed", adapter.name));
        let mut gpu = GpuBackend::new(GpuOptions { variant: *variant, ..options.clone() }).ok()?;
        let gpu = time(&mut gpu).ok()?;
        let cpu = cpu.get_or_insert_with(|| {
            progress("the CPU's speed");
            let cpu = CpuKernels::backend(CpuOptions::default()).map_err(|e| e.to_string());
            cpu.and_then(|mut cpu| time(&mut cpu).map_err(|e| e.to_string())).unwrap_or_default()
        });
        Some([cpu.generated / gpu.generated, cpu.prompt / gpu.prompt])
    });
    let verdict = Verdict {
        key: adapter.key(),
        kernels: adapter.suits.to_owned(),
        variant: chosen.map(|(variant, _)| variant.map_or_else(String::new, |v| v.name().to_owned())),
        faster: faster
            .and_then(|[generated, prompt]| (generated > 1.0 && prompt >= 1.0).then_some(generated)),
    };
    // What failed for reasons of the moment may be right the next time.
    let verdict = (!failed_now).then_some(verdict);
    let why = |(variant, _): &(Option<GpuVariant>, VariantReport)| match variant {
        None => "they suit the device best and are right".to_owned(),
        Some(_) => "what suits the device better is not right here".to_owned(),
    };
    let report = AdapterReport {
        name: adapter.name.clone(),
        kind: adapter.kind.clone(),
        api: adapter.api.clone(),
        driver: adapter.driver.clone(),
        features: adapter.features.iter().map(ToString::to_string).collect(),
        limits: adapter.limits.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        subgroups: adapter.subgroups,
        faults: (adapter.faults.iter())
            .map(|fault| [fault.symptom.to_owned(), fault.source.to_owned(), fault.remedy()])
            .collect(),
        chosen: chosen.map(|chosen| [chosen.1.name.clone(), why(chosen)]),
        variants: variants.into_iter().map(|(_, report)| report).collect(),
        faster,
    };
    (report, verdict)
}

/// The kernels to choose from, best first: those that suit the device, then some by name.
const CANDIDATES: [Option<GpuVariant>; 4] =
    [None, Some(GpuVariant::Subgroup), Some(GpuVariant::Half), Some(GpuVariant::Baseline)];

/// Why a variant is not known to be right.
enum Outcome {
    /// The device lacks something.
    Missing(String),
    /// Memory was short or the device was lost, which another process may be the reason for.
    FailedNow(String),
    /// It failed, or its results are wrong.
    Wrong(String),
}

/// The largest error of all checks, as a share of the largest value.
fn right(options: GpuOptions, references: &mut References) -> Result<f64, Outcome> {
    let outcome = |e: BackendError| match e {
        BackendError::Unsupported { .. } => Outcome::Missing(e.to_string()),
        BackendError::OutOfMemory { .. } | BackendError::DeviceLost { .. } => {
            Outcome::FailedNow(e.to_string())
        }
        e => Outcome::Wrong(e.to_string()),
    };
    let mut gpu = GpuBackend::new(options).map_err(outcome)?;
    let mut worst: f64 = 0.0;
    for check in Check::ALL {
        let info = gpu.info();
        let expected = references.answer(check, info.numerics);
        let expected = expected.map_err(|e| Outcome::Wrong(format!("the reference: {e}")))?;
        let found = check.run(&mut gpu).map_err(outcome)?;
        let staged = info.tier == GpuVariant::StagedHalf.name();
        let most = if staged || info.numerics == Numerics::ActQ8_0 { RIGHT_ROUNDED } else { RIGHT };
        if found.tokens != expected.tokens {
            let (name, found, expected) = (check.name(), found.tokens, &expected.tokens);
            return Err(Outcome::Wrong(format!(
                "{name}: tokens {found:?} are chosen, expected {expected:?}"
            )));
        }
        let error = share_of_error(&expected.values, &found.values);
        // Not a number is not within anything.
        if error.is_none_or(|error| error.is_nan() || error > most) {
            let error = error.map_or_else(|| "of another length".into(), |e| format!("{e:.1e}"));
            return Err(Outcome::Wrong(format!(
                "{}: the error is {error}, expected at most {most:.0e}",
                check.name()
            )));
        }
        worst = worst.max(error.unwrap_or_default());
    }
    Ok(worst)
}

/// The reference's answers, each worked out once.
#[derive(Default)]
struct References(Vec<(Check, Numerics, Answer)>);

impl References {
    fn answer(&mut self, check: Check, numerics: Numerics) -> Result<&Answer, BackendError> {
        let known = self.0.iter().position(|(c, n, _)| (*c, *n) == (check, numerics));
        let at = match known {
            Some(at) => at,
            None => {
                let answer = check.run(&mut RefKernels::backend(numerics))?;
                self.0.push((check, numerics, answer));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].2)
    }
}

fn share_of_error(expected: &[f32], found: &[f32]) -> Option<f64> {
    let largest = expected.iter().fold(0.0_f64, |m, v| m.max(f64::from(v.abs())));
    let errors = expected.iter().zip(found).map(|(e, f)| (f64::from(*e) - f64::from(*f)).abs());
    // A NaN must not be lost: f64::max would drop it.
    let worst = errors.fold(0.0_f64, |m, e| if e > m || e.is_nan() { e } else { m });
    (expected.len() == found.len()).then_some(worst / largest)
}

/// Verdicts of this process, for engines that keep none.
static UNKEPT: Mutex<Vec<Verdict>> = Mutex::new(Vec::new());

fn known(store: &Store, key: &str, kernels: &str) -> Option<Verdict> {
    if store.is_kept() {
        return store.verdict(key, kernels);
    }
    let unkept = UNKEPT.lock().unwrap_or_else(PoisonError::into_inner);
    unkept.iter().find(|v| v.key == key && v.kernels == kernels).cloned()
}

fn keep(store: &Store, verdict: Verdict) {
    if store.is_kept() {
        return store.keep_verdict(verdict);
    }
    UNKEPT.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
}

/// The device that options choose, with kernels that are right on it, by a verdict that is known or by checks that run
/// now. Kernels that are asked for by name run unchecked.
///
/// # Errors
/// If the device cannot be opened, or no variant is right.
pub fn first_right(options: GpuOptions, store: &Store) -> Result<GpuBackend, BackendError> {
    let opened = GpuBackend::new(options.clone())?;
    if options.variant.is_some() {
        return Ok(opened);
    }
    let (key, adapter) = (opened.adapter().key(), opened.adapter().name.clone());
    // Kernels of one name differ with the limits that they were made for.
    let tier = if options.tier == GpuTier::Lowest { ", lowest tier" } else { "" };
    let kernels = format!("{}{tier}", opened.info().tier);
    // A verdict that cannot be followed is none.
    match known(store, &key, &kernels).map(|verdict| verdict.variant) {
        Some(None) => return Err(none_is_right(&adapter, "by an earlier examination")),
        Some(Some(name)) if name.is_empty() => return Ok(opened),
        Some(Some(name)) => {
            let variant = GpuVariant::named(&name).ok().filter(|v| CANDIDATES.contains(&Some(*v)));
            if let Some(Ok(gpu)) = variant.map(|v| GpuBackend::new(beginning_with(&options, Some(v)))) {
                return Ok(gpu);
            }
        }
        None => {}
    }
    drop(opened);
    let mut references = References::default();
    let mut reasons = Vec::new();
    let mut failed_now = false;
    let verdict = |variant| Verdict { key: key.clone(), kernels: kernels.clone(), variant, faster: None };
    for variant in CANDIDATES {
        let options = beginning_with(&options, variant);
        let name = variant.map_or("best", GpuVariant::name);
        // A loss on purpose is for the steps of whoever asked for it.
        let unharmed = GpuOptions { failure: None, gives_way: false, ..options.clone() };
        match right(unharmed, &mut references) {
            Ok(_) => {
                if !failed_now {
                    let variant = variant.map_or_else(String::new, |v| v.name().to_owned());
                    keep(store, verdict(Some(variant)));
                }
                return GpuBackend::new(options);
            }
            Err(Outcome::Missing(_)) => {}
            Err(Outcome::FailedNow(reason)) => {
                failed_now = true;
                reasons.push(reason);
            }
            Err(Outcome::Wrong(reason)) => {
                tracing::warn!("{adapter}: the {name} kernels are not used: {reason}");
                reasons.push(reason);
            }
        }
    }
    if !failed_now {
        keep(store, verdict(None));
    }
    Err(none_is_right(&adapter, &reasons.join("; ")))
}

/// Options whose kernels are these at first: a driver that refuses one of them later gets lesser ones.
fn beginning_with(options: &GpuOptions, variant: Option<GpuVariant>) -> GpuOptions {
    GpuOptions { variant, gives_way: true, ..options.clone() }
}

fn none_is_right(adapter: &str, reason: &str) -> BackendError {
    let reason = format!("{adapter}: no variant of the kernels is right here: {reason}");
    BackendError::Device { backend: "gpu", reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shares_and_nothing_that_is_no_number_is_small() {
        assert_eq!(share_of_error(&[2.0, -4.0], &[2.0, -3.0]), Some(0.25));
        assert!(share_of_error(&[2.0, -4.0], &[f32::NAN, -4.0]).is_some_and(f64::is_nan));
        assert_eq!(share_of_error(&[2.0], &[]), None);
    }

    #[test]
    fn the_checks_tell_right_from_wrong_on_the_cpu() {
        for check in Check::ALL {
            let expected = check.run(&mut RefKernels::backend(Numerics::ActF32)).unwrap();
            let options = CpuOptions { numerics: Numerics::ActF32, ..CpuOptions::default() };
            let found = check.run(&mut CpuKernels::backend(options).unwrap()).unwrap();
            let error = share_of_error(&expected.values, &found.values).unwrap();
            assert!(error < RIGHT, "{}: {error}", check.name());
            let large = expected.values.iter().filter(|v| v.abs() > 0.01).count();
            assert!(large > expected.values.len() / 2, "{}", check.name());
            assert_eq!(expected.tokens, found.tokens);
            let drawn: Vec<bool> = found.tokens.iter().map(|t| *t != Some(99)).collect();
            assert!(drawn.contains(&true), "some token is not the likeliest: {:?}", found.tokens);
            assert_eq!([0, 2, 4].map(|i| found.tokens[i]), [Some(99); 3]);
        }
    }
}
