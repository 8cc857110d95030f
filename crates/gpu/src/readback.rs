//! What the host waits for: submissions whose results lie in a mapped buffer. What the bytes mean is known
//! to those who asked for them.

use std::sync::{Arc, OnceLock};

use interleaf_contract::BackendError;

use crate::buffers::BufferPool;
use crate::command::{Recording, Submitter};
use crate::device::Gpu;
use crate::error;
use crate::work::Profiler;

/// A submission under way.
#[derive(Debug)]
pub(crate) struct Pending {
    submission: wgpu::SubmissionIndex,
    results: Option<Results>,
}

/// Where results will be.
#[derive(Debug)]
struct Results {
    buffer: wgpu::Buffer,
    /// Bytes of it that count.
    bytes: u64,
    /// Whether mapping it worked, once that is known.
    mapped: Arc<OnceLock<Result<(), String>>>,
}

impl Pending {
    /// Sends a recording off with a buffer for what it reads back, if anything.
    pub(crate) fn submit(
        gpu: &Gpu,
        submitter: &mut Submitter,
        pool: &mut BufferPool,
        recording: &Recording,
        profile: Option<(&Profiler, u64)>,
    ) -> Result<Self, BackendError> {
        let bytes = recording.read_back_bytes();
        let buffer = if bytes > 0 { Some(pool.take(gpu, bytes)?) } else { None };
        let state = Arc::new(OnceLock::new());
        let set = Arc::clone(&state);
        let mapped = move |result: Result<(), wgpu::BufferAsyncError>| {
            // The first outcome stands; there is no second.
            let _ = set.set(result.map_err(|e| e.to_string()));
        };
        match submitter.submit(gpu, recording, buffer.as_ref(), profile, mapped) {
            Ok(submission) => {
                let results = buffer.map(|buffer| Results { buffer, bytes, mapped: state });
                Ok(Self { submission, results })
            }
            Err(e) => {
                if let Some(buffer) = &buffer {
                    pool.give(buffer);
                }
                Err(e)
            }
        }
    }

    /// Waits, copies the results out in one go, and gives the buffer back.
    pub(crate) fn wait(self, gpu: &Gpu, pool: &mut BufferPool) -> Result<Vec<u8>, BackendError> {
        gpu.wait(self.submission)?;
        let Some(Results { buffer, bytes, mapped }) = self.results else {
            return Ok(Vec::new());
        };
        match mapped.get() {
            Some(Ok(())) => {}
            Some(Err(e)) => return Err(error::device(e)),
            None => return Err(error::device("results were not mapped when their submission ended")),
        }
        // Mapped memory may be uncached: it is read once, from one end to the other.
        let copied = buffer.get_mapped_range(..bytes).map(|view| view.to_vec()).map_err(error::device);
        buffer.unmap();
        pool.give(&buffer);
        copied
    }
}
