//! What was measured, and how it is printed.

use interleaf_runtime::{DevicePeaks, Engine, Numerics, PageElement};
use serde::Serialize;

use super::case::{Case, Test};
use super::device::DeviceRow;
use super::machine::Machine;
use super::roofline::{CpuPeaks, Roofline, Unit};
use super::work::Work;
use crate::args::{BenchArgs, OutputArg, WeightsArg};
use crate::table::{self, Align};
use crate::{CliError, output};

/// All that is printed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The model or the shape.
    pub model: String,
    /// Its weights.
    pub parameters: u64,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `pp512` or `tg128`.
    test: String,
    backend: &'static str,
    tier: &'static str,
    weights: &'static str,
    /// Bytes of weights that a step reads which wants logits.
    weight_bytes: u64,
    numerics: &'static str,
    pages: &'static str,
    threads: usize,
    batch: usize,
    adapters: usize,
    /// Of the adapters; 0 where there are none.
    rank: usize,
    depth: usize,
    /// The most rows of a prompt in one step.
    prefill_rows: usize,
    /// Tokens of all sequences; the mean of the samples.
    tokens_per_second: f64,
    /// Of the samples; 0 for one.
    stddev: f64,
    ms_per_step: f64,
    /// The time of the row without adapters that it took turns with is 1; the median of the repetitions.
    time_ratio: Option<f64>,
    /// Share of the read bandwidth that was measured in the same run. On a GPU a generated row's is of what its kernels
    /// load, by their cost functions.
    bandwidth_fraction: Option<f64>,
    /// Share of the multiply-adds that were measured in the same run; on a GPU of those of f32.
    peak_fraction: Option<f64>,
    /// Tokens per second of each repetition.
    samples: Vec<f64>,
    /// What a device that counts did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceRow>,
    /// What multiplies.
    #[serde(skip)]
    unit: Unit,
    /// Bytes that are read in a second.
    #[serde(skip)]
    read_rate: f64,
    /// Multiply-adds in a second.
    #[serde(skip)]
    multiply_rate: f64,
}

impl Row {
    /// A row that took so many seconds in each repetition, without what the machine can do.
    pub fn new(
        args: &BenchArgs,
        weights: WeightsArg,
        engine: &Engine,
        case: &Case,
        seconds: &[f64],
        work: Work,
    ) -> Self {
        let info = engine.backend();
        let tokens = (case.batch * case.test.tokens()) as f64;
        let samples: Vec<f64> = seconds.iter().map(|s| tokens / s.max(f64::MIN_POSITIVE)).collect();
        let tokens_per_second = mean(&samples);
        // Of the same mean as the rate, so that the two agree.
        let repetitions_per_second = tokens_per_second / tokens;
        let in_int8 = weights.is_quantised() && info.numerics == Numerics::ActQ8_0;
        let bytes = engine.weight_bytes();
        Self {
            test: case.test.name(),
            backend: info.name,
            tier: info.tier,
            weights: weights_name(weights),
            weight_bytes: bytes.layers + bytes.head,
            numerics: if weights.is_quantised() { info.numerics.name() } else { "act=f32" },
            pages: PageElement::from(args.pages).name(),
            threads: info.threads,
            batch: case.batch,
            adapters: case.adapters,
            rank: if case.adapters > 0 { args.rank } else { 0 },
            depth: case.depth,
            prefill_rows: args.prefill_rows,
            tokens_per_second,
            stddev: deviation(&samples),
            ms_per_step: 1e3 / (repetitions_per_second * work.steps as f64),
            time_ratio: None,
            bandwidth_fraction: None,
            peak_fraction: None,
            samples,
            device: None,
            unit: if in_int8 { Unit::Int8 } else { Unit::F32 },
            read_rate: work.bytes as f64 * repetitions_per_second,
            multiply_rate: work.multiply_adds as f64 * repetitions_per_second,
        }
    }

    /// Puts the row beside the one without adapters, repetition by repetition.
    pub fn set_time_ratio(&mut self, own: &[f64], without: &[f64]) {
        let mut ratios: Vec<f64> = own.iter().zip(without).map(|(own, without)| own / without).collect();
        ratios.sort_by(f64::total_cmp);
        self.time_ratio = median(&ratios);
    }

    /// One line, for who watches.
    pub fn line(&self) -> String {
        format!("{}: {:.2} ± {:.2} tokens/s", self.label(), self.tokens_per_second, self.stddev)
    }

    /// What the row is of.
    fn label(&self) -> String {
        let Self { test, weights, threads, batch, adapters, depth, .. } = self;
        format!("{test} {weights}, threads {threads}, batch {batch}, adapters {adapters}, depth {depth}")
    }

    /// Adds what a device did. What generated rows are held to bandwidth for is what its kernels load; a prompt's rows
    /// share weights, of which kernels load most again from caches.
    pub fn set_device(&mut self, device: DeviceRow, test: Test) {
        if matches!(test, Test::Generate(_)) {
            let loaded = device.loaded_per_step;
            self.read_rate = loaded.map_or(self.read_rate, |loaded| 1e3 * loaded / self.ms_per_step);
        }
        self.device = Some(device);
    }

    /// Puts the row beside what as many threads can do.
    fn set_cpu_peaks(&mut self, peaks: &CpuPeaks) {
        let multiplied = match self.unit {
            Unit::F32 => peaks.f32_operations_per_second,
            Unit::Int8 => peaks.int8_operations_per_second,
        };
        self.set_shares(peaks.read_bytes_per_second, multiplied);
        self.warn_of(self.peak_fraction, "multiply-adds");
    }

    /// Puts the row beside what its device can do. Multiply-adds are held to those of f32, integers too: they may exceed
    /// them.
    fn set_gpu_peaks(&mut self, peaks: &DevicePeaks) {
        self.set_shares(peaks.read_bytes_per_second, peaks.f32_operations_per_second);
        if self.unit == Unit::F32 {
            self.warn_of(self.peak_fraction, "multiply-adds");
        }
        if let Some(device) = &mut self.device {
            device.set_latency(peaks);
        }
    }

    /// Of bytes and of operations in a second.
    fn set_shares(&mut self, read: f64, multiplied: f64) {
        self.bandwidth_fraction = Some(self.read_rate / read);
        self.peak_fraction = Some(2.0 * self.multiply_rate / multiplied);
        self.warn_of(self.bandwidth_fraction, "read bandwidth");
    }

    /// Says so where a share cannot be.
    fn warn_of(&self, share: Option<f64>, of: &str) {
        if let Some(share) = share.filter(|share| *share > 1.0) {
            output::note(format_args!(
                "interleaf: {} reaches {:.0} % of the measured {of}: the probe is at fault, or what the row reads stays \
                 in a cache that the probe's buffer does not fit in",
                self.line(),
                100.0 * share
            ));
        }
    }
}

impl Report {
    /// Puts every row beside what its device can do, a host's with as many threads.
    pub fn set_roofline(&mut self, roofline: Roofline) {
        let cpu = roofline.cpu();
        let gpu = roofline.gpu();
        for row in &mut self.rows {
            if row.backend == "gpu" {
                gpu.iter().for_each(|gpu| row.set_gpu_peaks(&gpu.peaks));
            } else if let Some(peaks) = cpu.iter().flatten().find(|peaks| peaks.threads == row.threads) {
                row.set_cpu_peaks(peaks);
            }
        }
        (self.machine.roofline, self.machine.gpu_roofline) = (cpu, gpu);
    }

    /// Prints everything.
    pub fn print(&self, format: OutputArg) -> Result<(), CliError> {
        match format {
            OutputArg::Json => output::json(self),
            OutputArg::Csv => {
                output::line(COLUMNS.map(|(name, ..)| name).join(","))?;
                let mut lines = self.rows.iter().map(|row| COLUMNS.map(|(.., cell)| cell(row, Style::Exact)));
                lines.try_for_each(|cells| output::line(cells.join(",")))
            }
            OutputArg::Md => self.print_markdown(),
        }
    }

    fn print_markdown(&self) -> Result<(), CliError> {
        output::line(format_args!("{}, {} parameters", self.model, table::count(self.parameters)))?;
        for line in self.machine.lines() {
            output::line(line)?;
        }
        output::line("")?;
        let cells = |row: &Row| COLUMNS.map(|(.., cell)| cell(row, Style::Short)).to_vec();
        let rows: Vec<Vec<String>> = self.rows.iter().map(cells).collect();
        markdown(&rows).iter().try_for_each(output::line)?;
        if self.rows.iter().any(|row| row.device.is_some()) {
            output::line("")?;
        }
        for row in &self.rows {
            let lines = row.device.iter().flat_map(|device| device.lines(&row.label(), row.ms_per_step));
            lines.collect::<Vec<_>>().iter().try_for_each(output::line)?;
        }
        Ok(())
    }
}

/// How exact a number is printed.
#[derive(Clone, Copy)]
enum Style {
    /// For programs.
    Exact,
    /// For people.
    Short,
}

impl Style {
    fn number(self, value: f64, digits: usize) -> String {
        match self {
            Self::Exact => value.to_string(),
            Self::Short => format!("{value:.digits$}"),
        }
    }

    fn share(self, value: Option<f64>) -> String {
        match (self, value) {
            (Self::Exact, None) => String::new(),
            (Self::Short, None) => "–".into(),
            (_, Some(value)) => self.number(value, 3),
        }
    }
}

/// A column's name, its side, and a row's cell in it.
type Column = (&'static str, Align, fn(&Row, Style) -> String);

const COLUMNS: [Column; 15] = [
    ("test", Align::Left, |row, _| row.test.clone()),
    ("backend", Align::Left, |row, _| row.backend.into()),
    ("tier", Align::Left, |row, _| row.tier.into()),
    ("weights", Align::Left, |row, _| row.weights.into()),
    ("weight_bytes", Align::Right, |row, style| match style {
        Style::Exact => row.weight_bytes.to_string(),
        Style::Short => table::bytes(row.weight_bytes),
    }),
    ("threads", Align::Right, |row, _| row.threads.to_string()),
    ("batch", Align::Right, |row, _| row.batch.to_string()),
    ("adapters", Align::Right, |row, _| row.adapters.to_string()),
    ("depth", Align::Right, |row, _| row.depth.to_string()),
    ("tokens_per_second", Align::Right, |row, style| style.number(row.tokens_per_second, 2)),
    ("stddev", Align::Right, |row, style| style.number(row.stddev, 2)),
    ("ms_per_step", Align::Right, |row, style| style.number(row.ms_per_step, 2)),
    ("time_ratio", Align::Right, |row, style| style.share(row.time_ratio)),
    ("bandwidth_fraction", Align::Right, |row, style| style.share(row.bandwidth_fraction)),
    ("peak_fraction", Align::Right, |row, style| style.share(row.peak_fraction)),
];

/// A table in Markdown whose source lines up too.
fn markdown(rows: &[Vec<String>]) -> Vec<String> {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|cell| console::measure_text_width(cell));
        cells.chain([COLUMNS[i].0.len()]).max().unwrap_or(0)
    };
    let padded = |cell: &str, i: usize| {
        let side = match COLUMNS[i].1 {
            Align::Left => console::Alignment::Left,
            Align::Right => console::Alignment::Right,
        };
        console::pad_str(cell, width(i), side, None).into_owned()
    };
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let header = (0..COLUMNS.len()).map(|i| padded(COLUMNS[i].0, i)).collect();
    let rule = (0..COLUMNS.len()).map(|i| match COLUMNS[i].1 {
        Align::Left => "-".repeat(width(i)),
        Align::Right => format!("{}:", "-".repeat(width(i) - 1)),
    });
    let body = rows.iter().map(|row| line(row.iter().enumerate().map(|(i, cell)| padded(cell, i)).collect()));
    [line(header), line(rule.collect())].into_iter().chain(body).collect()
}

fn weights_name(weights: WeightsArg) -> &'static str {
    match weights {
        WeightsArg::Stored => "stored",
        WeightsArg::F16 => "f16",
        WeightsArg::Bf16 => "bf16",
        WeightsArg::Q8 => "q8",
        WeightsArg::Q4 => "q4",
    }
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len().max(1) as f64
}

/// Of samples in order.
fn median(samples: &[f64]) -> Option<f64> {
    let upper = samples.get(samples.len() / 2)?;
    let lower = if samples.len().is_multiple_of(2) { samples[samples.len() / 2 - 1] } else { *upper };
    Some((lower + upper) / 2.0)
}

/// The standard deviation of what the samples are drawn from.
fn deviation(samples: &[f64]) -> f64 {
    let mean = mean(samples);
    let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
    (squares / samples.len().saturating_sub(1).max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_those_of_the_population() {
        assert_eq!((mean(&[1.0, 3.0]), deviation(&[1.0, 3.0])), (2.0, 2.0f64.sqrt()));
        assert_eq!(deviation(&[5.0]), 0.0);
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }
}
