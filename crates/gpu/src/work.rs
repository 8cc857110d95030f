//! What steps cost: submissions, dispatches, bytes loaded, and times where they are measured.

use interleaf_contract::{BackendError, DeviceWork, KernelWork};
use wgpu::Features;

use crate::command::Recording;
use crate::cost::Loads;
use crate::device::Gpu;
use crate::error;

/// Timestamps of one query set: as many as wgpu lets it have.
const MOST_QUERIES: u32 = 4096;

/// Dispatches of one submission that are timed.
const MOST_TIMED: usize = MOST_QUERIES as usize / 2;

/// Bytes of a timestamp.
const TIMESTAMP: usize = size_of::<u64>();

/// Times the kernels of submissions. Submissions run in order, so that one query set serves all of them.
#[derive(Debug)]
pub(crate) struct Profiler {
    pub queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Nanoseconds of a tick.
    period: f64,
    /// Whether timestamps can be taken between the dispatches of a pass. Without that each gets a pass of its own.
    pub inside_passes: bool,
}

impl Profiler {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, BackendError> {
        let features = gpu.device.features();
        if !features.contains(Features::TIMESTAMP_QUERY) {
            return Err(error::unsupported("a profile by kernel on a device without timestamps"));
        }
        let (queries, resolved) = gpu.guarded("timestamps", 0, || {
            let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: MOST_QUERIES,
            });
            let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: u64::from(MOST_QUERIES) * TIMESTAMP as u64,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (queries, resolved)
        })?;
        Ok(Self {
            queries,
            resolved,
            period: f64::from(gpu.queue.get_timestamp_period()),
            inside_passes: features.contains(Features::TIMESTAMP_QUERY_INSIDE_PASSES),
        })
    }

    /// The queries before and after a dispatch, if it is among those that are timed.
    pub(crate) fn pair(&self, dispatch: usize) -> Option<[u32; 2]> {
        let first = u32::try_from(2 * dispatch).ok().filter(|_| dispatch < MOST_TIMED)?;
        Some([first, first + 1])
    }

    /// Encodes the copy of so many dispatches' timestamps to the end of what is read back.
    pub(crate) fn resolve(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        dispatches: usize,
        to: (&wgpu::Buffer, u64),
    ) {
        let count = 2 * dispatches.min(MOST_TIMED);
        if let Ok(queries @ 1..) = u32::try_from(count) {
            encoder.resolve_query_set(&self.queries, 0..queries, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, to.0, to.1, (count * TIMESTAMP) as u64);
        }
    }
}

/// What one submission cost, its times still to be read.
#[derive(Debug)]
pub(crate) struct StepWork {
    submits: u64,
    kernels: Vec<(&'static str, Loads)>,
    /// Where timestamps are in what is read back, and nanoseconds of a tick.
    timed: Option<(usize, f64)>,
}

impl StepWork {
    /// Takes down what a recording dispatches, and makes room for its timestamps.
    pub(crate) fn of(recording: &mut Recording, submits: u64, profiler: Option<&Profiler>) -> Self {
        let kernels: Vec<_> = recording.dispatches().collect();
        let timed = profiler.map(|profiler| {
            let bytes = 2 * TIMESTAMP * kernels.len().min(MOST_TIMED);
            (recording.reserve_read_back(bytes as u64, TIMESTAMP as u64) as usize, profiler.period)
        });
        Self { submits, kernels, timed }
    }

    /// What each dispatch loads.
    #[cfg(test)]
    pub(crate) fn dispatches(&self) -> &[(&'static str, Loads)] {
        &self.kernels
    }

    /// Where timestamps are in what is read back, if there are any.
    pub(crate) fn stamps_at(&self) -> Option<u64> {
        self.timed.map(|(at, _)| at as u64)
    }

    /// Adds it to what was done before.
    pub(crate) fn add_to(&self, work: &mut DeviceWork, read_back: &[u8]) {
        work.submits += self.submits;
        let stamps = self.timed.and_then(|(at, period)| Some((read_back.get(at..)?.as_chunks().0, period)));
        for (i, (name, loaded)) in self.kernels.iter().enumerate() {
            let at = work.kernels.iter().position(|k| k.kernel == *name).unwrap_or_else(|| {
                work.kernels.push(KernelWork { kernel: name, ..KernelWork::default() });
                work.kernels.len() - 1
            });
            let kernel = &mut work.kernels[at];
            kernel.dispatches += 1;
            kernel.loaded += loaded.total();
            if let Some((stamps, period)) = stamps
                && let Some([before, after]) = stamps.get(2 * i..2 * i + 2)
            {
                let ticks = u64::from_le_bytes(*after).saturating_sub(u64::from_le_bytes(*before));
                *kernel.nanoseconds.get_or_insert(0) += (ticks as f64 * period) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_added_up_by_name() {
        let loads = |weights, pages| Loads { weights, pages, ..Loads::default() };
        let kernels = vec![("a", loads(7, 3)), ("b", loads(0, 5)), ("a", loads(1, 0))];
        let step = StepWork { submits: 1, kernels, timed: Some((8, 2.0)) };
        let stamps: Vec<u8> = [9_u64, 0, 4, 10, 11, 20, 23].iter().flat_map(|t| t.to_le_bytes()).collect();
        let mut work = DeviceWork::default();
        step.add_to(&mut work, &stamps);
        step.add_to(&mut work, &stamps);
        let kernel = |kernel, dispatches, loaded, nanoseconds| KernelWork {
            kernel,
            dispatches,
            loaded,
            nanoseconds: Some(nanoseconds),
        };
        assert_eq!(work.kernels, [kernel("a", 4, 22, 2 * (8 + 6)), kernel("b", 2, 10, 4)]);
        assert_eq!((work.submits, work.dispatches(), work.loaded()), (2, 6, 32));
    }
}
