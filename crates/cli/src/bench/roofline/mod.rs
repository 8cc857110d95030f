//! What the device of a row reads from memory and multiplies at best: the roof over every row.
//!
//! Measured in the same run as the rows, between them, since what a machine can do changes with its heat and
//! its other tenants. The best of all looks counts. A GPU's probe is its backend's own; the processor's is here.

mod cpu;
mod gpu;

use interleaf_runtime::Engine;

use crate::CliError;
pub use cpu::Peaks as CpuPeaks;
pub use gpu::Peaks as GpuPeaks;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// f32 by f32, fused with an addition where the machine can.
    F32,
    /// 8-bit integers, summed in 32 bits.
    Int8,
}

/// The probes that rows have needed, and what they have seen.
#[derive(Default)]
pub struct Roofline {
    cpu: Option<cpu::Probe>,
    gpu: Option<GpuPeaks>,
}

impl Roofline {
    /// Looks once at what an engine runs on.
    pub fn sample(&mut self, engine: &mut Engine) -> Result<(), CliError> {
        let info = engine.backend();
        if let Some(seen) = engine.measure_peaks()? {
            let best = self.gpu.take().map_or(seen, |before| before.peaks.or(&seen));
            self.gpu = Some(GpuPeaks { device: info.device, peaks: best });
            return Ok(());
        }
        let probe = match &mut self.cpu {
            Some(probe) => probe,
            none => none.insert(cpu::Probe::new()?),
        };
        probe.sample(info.threads);
        Ok(())
    }

    /// The processor's, if rows ran on it, by the number of threads.
    pub fn cpu(&self) -> Option<Vec<CpuPeaks>> {
        self.cpu.as_ref().map(cpu::Probe::peaks)
    }

    /// The GPU's, if rows ran there.
    pub fn gpu(self) -> Option<GpuPeaks> {
        self.gpu
    }
}
