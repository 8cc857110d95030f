//! Device buffers: one by one, or from a reuse pool. What is in them is others' business.

use interleaf_contract::BackendError;
use wgpu::BufferUsages;

use crate::device::Gpu;
use crate::error;

/// Staging that uploads may hold before they wait for the device: bounds the second copy of weights that
/// is on its way.
const STAGING_BYTES: u64 = 32 << 20;

/// A pooled buffer that so many steps in a row did not take is freed: one long prompt does not keep its
/// activations for ever, and generating between two prompts keeps them.
const IDLE_STEPS: u64 = 64;

/// Usages of what kernels read and write.
pub(crate) const STORAGE: BufferUsages =
    BufferUsages::STORAGE.union(BufferUsages::COPY_SRC).union(BufferUsages::COPY_DST);

/// Usages of what the host reads.
pub(crate) const READ_BACK: BufferUsages = BufferUsages::MAP_READ.union(BufferUsages::COPY_DST);

/// Rounds a size up so that buffers are reused for similar sizes: four classes to an octave, hence at
/// most a quarter too large, and 256 bytes at least.
pub(crate) const fn size_class(bytes: u64) -> u64 {
    if bytes <= 256 {
        return 256;
    }
    let step = 1 << (bytes.ilog2() - 2);
    match bytes.checked_next_multiple_of(step) {
        Some(class) => class,
        None => bytes,
    }
}

/// What a buffer of `bytes` takes: never nothing, which cannot be bound, and a multiple of the largest
/// element that a kernel reads, a vec4.
const fn whole(bytes: u64) -> u64 {
    match bytes.checked_next_multiple_of(16) {
        Some(0) => 16,
        Some(size) => size,
        None => u64::MAX,
    }
}

/// Creates a buffer of zeros.
pub(crate) fn create(
    gpu: &Gpu,
    what: &str,
    bytes: u64,
    usage: BufferUsages,
) -> Result<wgpu::Buffer, BackendError> {
    let size = whole(bytes);
    let most = if usage.contains(BufferUsages::STORAGE) {
        gpu.caps.binding_bytes
    } else {
        gpu.device.limits().max_buffer_size
    };
    if size > most {
        return Err(error::no_room(what, size, format!("a buffer holds at most {most} bytes here")));
    }
    let descriptor = wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
    gpu.guarded(what, size, || gpu.device.create_buffer(&descriptor))
}

/// A buffer of at least `bytes` that begins with what `old` holds: `old` itself where it is long enough, else one
/// twice as long, or as long as it must be.
pub(crate) fn grown(
    gpu: &Gpu,
    what: &str,
    old: Option<&wgpu::Buffer>,
    bytes: u64,
    first: u64,
) -> Result<wgpu::Buffer, BackendError> {
    let size = old.map_or(0, wgpu::Buffer::size);
    if let Some(old) = old
        && bytes <= size
    {
        return Ok(old.clone());
    }
    let most = gpu.caps.binding_bytes;
    if bytes > most {
        return Err(error::no_room(what, bytes, format!("all of them together may take {most} bytes here")));
    }
    let larger = create(gpu, what, (2 * size).max(first).min(most).max(bytes), STORAGE)?;
    if let Some(old) = old {
        gpu.guarded(what, 0, || {
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("grow") };
            let mut encoder = gpu.device.create_command_encoder(&descriptor);
            encoder.copy_buffer_to_buffer(old, 0, &larger, 0, size);
            gpu.queue.submit([encoder.finish()]);
        })?;
    }
    Ok(larger)
}

/// Writes host bytes to buffers, in pieces, with bounded staging. Ordered with submissions.
#[derive(Debug)]
pub(crate) struct Uploader<'a> {
    gpu: &'a Gpu,
    staged: u64,
}

impl<'a> Uploader<'a> {
    pub(crate) const fn new(gpu: &'a Gpu) -> Self {
        Self { gpu, staged: 0 }
    }

    /// Writes whole words at a whole word.
    pub(crate) fn write(
        &mut self,
        what: &str,
        buffer: &wgpu::Buffer,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let size = bytes.len() as u64;
        self.gpu.guarded(what, size, || self.gpu.queue.write_buffer(buffer, at, bytes))?;
        self.staged += size;
        if self.staged < STAGING_BYTES {
            return Ok(());
        }
        self.staged = 0;
        let submission = self.gpu.guarded(what, 0, || self.gpu.queue.submit([]))?;
        self.gpu.wait(submission)
    }

    /// Sends what is staged on its way, so that its memory is freed without waiting for a step.
    pub(crate) fn finish(self, what: &str) -> Result<(), BackendError> {
        self.gpu.guarded(what, 0, || self.gpu.queue.submit([]))?;
        Ok(())
    }
}

/// Buffers that steps take and give back, by size class: the next step of the same shape allocates
/// nothing. A device runs submissions in order, so that a buffer may be taken again while an earlier step
/// still uses it.
#[derive(Debug)]
pub(crate) struct BufferPool {
    what: &'static str,
    usage: BufferUsages,
    buffers: Vec<Pooled>,
    step: u64,
}

#[derive(Debug)]
struct Pooled {
    buffer: wgpu::Buffer,
    taken: bool,
    /// The step that took it last.
    step: u64,
}

impl BufferPool {
    pub(crate) const fn new(what: &'static str, usage: BufferUsages) -> Self {
        Self { what, usage, buffers: Vec::new(), step: 0 }
    }

    /// A buffer of at least `bytes`, with undefined contents.
    pub(crate) fn take(&mut self, gpu: &Gpu, bytes: u64) -> Result<wgpu::Buffer, BackendError> {
        // Near the limit the class may be beyond it while the bytes are not.
        let class = size_class(bytes).min(gpu.caps.binding_bytes).max(whole(bytes));
        let step = self.step;
        if let Some(free) = self.buffers.iter_mut().find(|p| !p.taken && p.buffer.size() == class) {
            (free.taken, free.step) = (true, step);
            return Ok(free.buffer.clone());
        }
        let buffer = create(gpu, self.what, class, self.usage)?;
        self.buffers.push(Pooled { buffer: buffer.clone(), taken: true, step });
        Ok(buffer)
    }

    /// A buffer with these bytes at its start, as the next submission sees it; given back already, because
    /// writes are ordered with submissions.
    pub(crate) fn fill(&mut self, gpu: &Gpu, bytes: &[u8]) -> Result<wgpu::Buffer, BackendError> {
        let buffer = self.take(gpu, bytes.len() as u64)?;
        self.give(&buffer);
        if !bytes.is_empty() {
            gpu.guarded(self.what, buffer.size(), || gpu.queue.write_buffer(&buffer, 0, bytes))?;
        }
        Ok(buffer)
    }

    /// Gives a buffer back.
    pub(crate) fn give(&mut self, buffer: &wgpu::Buffer) {
        for pooled in self.buffers.iter_mut().filter(|p| p.buffer == *buffer) {
            pooled.taken = false;
        }
    }

    /// Gives every buffer back but one.
    pub(crate) fn give_all_but(&mut self, kept: Option<&wgpu::Buffer>) {
        for pooled in &mut self.buffers {
            pooled.taken = kept.is_some_and(|kept| pooled.buffer == *kept);
        }
    }

    /// Begins another step, and returns whether that freed buffers that have been idle for long. Whoever
    /// keeps them alive elsewhere then lets go of them too.
    pub(crate) fn next_step(&mut self) -> bool {
        self.step += 1;
        let held = self.buffers.len();
        self.buffers.retain(|p| p.taken || p.step + IDLE_STEPS >= self.step);
        self.buffers.len() < held
    }

    /// Bytes held, taken or not.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffers.iter().map(|p| p.buffer.size()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_a_quarter_at_most_and_suit_copies() {
        for bytes in [0, 1, 256, 257, 300, 1000, 4096, 5000, 1 << 20, (1 << 20) + 1, 3 << 30] {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(64), "{bytes}: {class}");
            assert!(bytes <= 256 || class - bytes <= bytes / 4, "{bytes}: {class}");
            assert_eq!(size_class(class), class, "{bytes}");
        }
    }

    #[test]
    fn buffers_are_whole_vectors_and_never_empty() {
        assert_eq!([0, 1, 16, 17, u64::MAX].map(whole), [16, 16, 16, 32, u64::MAX]);
    }
}
