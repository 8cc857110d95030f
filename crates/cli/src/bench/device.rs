//! What a device did for a row, as its backend counts it: dispatches, submissions, bytes loaded, and times by
//! kernel where they were asked for.

use interleaf_runtime::{DevicePeaks, DeviceWork};
use serde::Serialize;

use super::work::Work;
use crate::table::{self, Align};

/// The mean of a step.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceRow {
    /// Of kernels.
    pub dispatches_per_step: f64,
    /// To the device's queue.
    pub submits_per_step: f64,
    /// Bytes that kernels loaded by their own cost functions, what they read again included; none where they have no such functions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_per_step: Option<f64>,
    /// The same as a multiple of the bytes that the step must read: weights, adapters in use, K and V.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_ratio: Option<f64>,
    /// What so many submissions and dispatches take that do nothing, where that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms_per_step: Option<f64>,
    /// By kernel.
    pub kernels: Vec<KernelRow>,
}

/// One kernel's share.
#[derive(Debug, Clone, Serialize)]
pub struct KernelRow {
    kernel: &'static str,
    dispatches_per_step: f64,
    loaded_per_step: f64,
    /// Where it was measured.
    microseconds_per_step: Option<f64>,
}

impl DeviceRow {
    /// What was done in so many steps, which were to do `work` in a repetition.
    pub fn new(done: &DeviceWork, steps: u64, work: &Work) -> Self {
        let per_step = |n: u64| n as f64 / steps.max(1) as f64;
        let needed = work.bytes as f64 / work.steps.max(1) as f64;
        let kernel = |k: &interleaf_runtime::KernelWork| KernelRow {
            kernel: k.kernel,
            dispatches_per_step: per_step(k.dispatches),
            loaded_per_step: per_step(k.loaded),
            microseconds_per_step: k.nanoseconds.map(|ns| per_step(ns) / 1e3),
        };
        let loaded = (done.loaded() > 0).then(|| per_step(done.loaded()));
        Self {
            dispatches_per_step: per_step(done.dispatches()),
            submits_per_step: per_step(done.submits),
            loaded_per_step: loaded,
            loaded_ratio: loaded.map(|loaded| loaded / needed),
            latency_ms_per_step: None,
            kernels: done.kernels.iter().map(kernel).collect(),
        }
    }

    /// Says what of a step is its submissions and dispatches by themselves.
    pub fn set_latency(&mut self, peaks: &DevicePeaks) {
        let seconds = peaks.latency(self.submits_per_step, self.dispatches_per_step);
        self.latency_ms_per_step = Some(1e3 * seconds);
    }

    /// One line and, where times were measured, a table by kernel, the slowest first.
    pub fn lines(&self, row: &str, ms_per_step: f64) -> Vec<String> {
        let latency = self.latency_ms_per_step.map_or_else(String::new, |ms| {
            format!("; {ms:.3} ms of latency, {:.1} % of a step", 100.0 * ms / ms_per_step)
        });
        let mut lines = vec![match (self.loaded_per_step, self.loaded_ratio) {
            (Some(loaded), Some(ratio)) => format!(
                "{row}: {:.1} dispatches and {:.2} submits a step; {} loaded, {ratio:.3} times what it must read{latency}",
                self.dispatches_per_step,
                self.submits_per_step,
                table::bytes(loaded as u64),
            ),
            _ => format!(
                "{row}: {:.1} operations a step, in the first worker's time",
                self.dispatches_per_step
            ),
        }];
        let time = |k: &KernelRow| k.microseconds_per_step.unwrap_or_default();
        let all: f64 = self.kernels.iter().map(time).sum();
        if all == 0.0 {
            return lines;
        }
        let mut kernels: Vec<&KernelRow> = self.kernels.iter().collect();
        kernels.sort_by(|a, b| time(b).total_cmp(&time(a)));
        let mut columns = vec![
            ("kernel", Align::Left),
            ("dispatches", Align::Right),
            ("µs", Align::Right),
            ("share", Align::Right),
        ];
        if self.loaded_per_step.is_some() {
            columns.extend([("loaded", Align::Right), ("GB/s", Align::Right)]);
        }
        let cells = |k: &&KernelRow| {
            let mut cells = vec![
                k.kernel.to_owned(),
                format!("{:.1}", k.dispatches_per_step),
                format!("{:.1}", time(k)),
                format!("{:.1} %", 100.0 * time(k) / all),
            ];
            if self.loaded_per_step.is_some() {
                cells.push(table::bytes(k.loaded_per_step as u64));
                cells.push(format!("{:.2}", k.loaded_per_step / time(k).max(f64::MIN_POSITIVE) / 1e3));
            }
            cells
        };
        lines.push(String::new());
        lines.extend(table::render(&columns, &kernels.iter().map(cells).collect::<Vec<_>>()));
        lines.push(String::new());
        lines
    }
}
