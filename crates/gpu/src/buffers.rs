//! Device buffers: one by one, from a reuse pool, or growing. What is in them is others' business.

use interleaf_contract::BackendError;
use wgpu::BufferUsages;

use crate::device::Gpu;
use crate::error;

/// Staging that uploads may hold before they wait for the device: bounds the second copy of weights that
/// is on its way.
const STAGING_BYTES: u64 = 32 << 20;

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

/// Creates a buffer of zeros. Never an empty one: those cannot be bound.
pub(crate) fn create(
    gpu: &Gpu,
    what: &str,
    bytes: u64,
    usage: BufferUsages,
) -> Result<wgpu::Buffer, BackendError> {
    // A multiple of the largest element that a kernel reads, a vec4.
    let size = bytes.max(1).checked_next_multiple_of(16).unwrap_or(u64::MAX);
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

/// Writes host bytes to buffers, in pieces, with bounded staging.
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

/// Buffers that steps take and give back, by size class. They are never freed: the next step of the same
/// shape allocates nothing. A device runs submissions in order, so that a buffer may be taken again while
/// an earlier step still uses it.
#[derive(Debug)]
pub(crate) struct BufferPool {
    what: &'static str,
    usage: BufferUsages,
    buffers: Vec<Pooled>,
}

#[derive(Debug)]
struct Pooled {
    buffer: wgpu::Buffer,
    taken: bool,
}

impl BufferPool {
    pub(crate) const fn new(what: &'static str, usage: BufferUsages) -> Self {
        Self { what, usage, buffers: Vec::new() }
    }

    /// A buffer of at least `bytes`, with undefined contents.
    pub(crate) fn take(&mut self, gpu: &Gpu, bytes: u64) -> Result<wgpu::Buffer, BackendError> {
        // Near the limit the class may be beyond it while the bytes are not.
        let class = size_class(bytes).min(gpu.caps.binding_bytes).max(bytes);
        if let Some(free) = self.buffers.iter_mut().find(|p| !p.taken && p.buffer.size() == class) {
            free.taken = true;
            return Ok(free.buffer.clone());
        }
        let buffer = create(gpu, self.what, class, self.usage)?;
        self.buffers.push(Pooled { buffer: buffer.clone(), taken: true });
        Ok(buffer)
    }

    /// Gives a buffer back.
    pub(crate) fn give(&mut self, buffer: &wgpu::Buffer) {
        for pooled in self.buffers.iter_mut().filter(|p| p.buffer == *buffer) {
            pooled.taken = false;
        }
    }

    /// Gives every buffer back.
    pub(crate) fn give_all(&mut self) {
        for pooled in &mut self.buffers {
            pooled.taken = false;
        }
    }

    /// Bytes held, taken or not.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffers.iter().map(|p| p.buffer.size()).sum()
    }
}

/// One buffer that is replaced by a larger one when it must hold more; contents are rewritten every time.
#[derive(Debug)]
pub(crate) struct Growing {
    what: &'static str,
    usage: BufferUsages,
    buffer: Option<wgpu::Buffer>,
}

impl Growing {
    pub(crate) const fn new(what: &'static str, usage: BufferUsages) -> Self {
        Self { what, usage, buffer: None }
    }

    /// The buffer with these bytes at its start, as every later submission sees it.
    pub(crate) fn fill(&mut self, gpu: &Gpu, bytes: &[u8]) -> Result<wgpu::Buffer, BackendError> {
        let size = bytes.len() as u64;
        let buffer = match self.buffer.take().filter(|b| b.size() >= size) {
            Some(buffer) => buffer,
            None => {
                create(gpu, self.what, size_class(size).min(gpu.caps.binding_bytes).max(size), self.usage)?
            }
        };
        self.buffer = Some(buffer.clone());
        if !bytes.is_empty() {
            gpu.guarded(self.what, size, || gpu.queue.write_buffer(&buffer, 0, bytes))?;
        }
        Ok(buffer)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffer.as_ref().map_or(0, wgpu::Buffer::size)
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
}
