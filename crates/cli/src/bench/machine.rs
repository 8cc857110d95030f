//! The machine that a bench ran on, as far as the system tells.

use std::collections::BTreeSet;
use std::thread::available_parallelism;

use serde::Serialize;

use super::roofline::{CpuPeaks, GpuPeaks};
use crate::table;

/// The host's processor, and what was measured of it and of a GPU.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Its name.
    cpu: String,
    /// Cores; `None` where the system does not tell them from threads.
    cores: Option<usize>,
    /// Threads that run at once.
    threads: usize,
    /// What it reads and multiplies at best, by the number of threads.
    pub roofline: Option<Vec<CpuPeaks>>,
    /// What the GPU reads and multiplies at best, and what a step takes there that does nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_roofline: Option<GpuPeaks>,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = field(&info, "model name").next().map(str::to_owned).or_else(apple_name);
        Self {
            cpu: cpu.unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH)),
            cores: cores(&info),
            threads: available_parallelism().map_or(1, usize::from),
            roofline: None,
            gpu_roofline: None,
        }
    }

    /// A line for the machine and one for each of its measurements.
    pub fn lines(&self) -> Vec<String> {
        let cores = self.cores.map_or_else(String::new, |cores| format!(", {cores} cores"));
        let machine = format!("{}{cores}, {}", self.cpu, table::threads(self.threads));
        let cpu = self.roofline.iter().flatten().map(CpuPeaks::line);
        [machine].into_iter().chain(cpu).chain(self.gpu_roofline.iter().map(GpuPeaks::line)).collect()
    }
}

/// The values of a field of `/proc/cpuinfo`.
fn field<'a>(info: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let value = move |line: &'a str| {
        let (field, value) = line.split_once(':')?;
        (field.trim() == name).then_some(value.trim())
    };
    info.lines().filter_map(value)
}

/// Pairs of a socket and a core in it.
fn cores(info: &str) -> Option<usize> {
    let cores: BTreeSet<_> = field(info, "physical id").zip(field(info, "core id")).collect();
    Some(cores.len()).filter(|cores| *cores > 0)
}

/// macOS tells by a command.
fn apple_name() -> Option<String> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let output =
        std::process::Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
    let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_apart_from_threads() {
        let thread = |core| format!("model name\t: X 1\nphysical id\t: 0\ncore id\t\t: {core}\n\n");
        let info = [thread(0), thread(1), thread(0), thread(1)].concat();
        assert_eq!((cores(&info), field(&info, "model name").next()), (Some(2), Some("X 1")));
        assert_eq!(cores(""), None);
        assert!(Machine::here().threads > 0);
    }
}
