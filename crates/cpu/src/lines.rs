//! Memory that begins on a cache line.

use bytemuck::{Pod, Zeroable};

/// One cache line.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes that begin on a cache line, zeros at first.
#[derive(Debug)]
pub struct Lines {
    lines: Box<[Line]>,
    bytes: usize,
}

impl Lines {
    /// So many bytes of zeros; `None` if there is no room.
    pub fn zeroed(bytes: usize) -> Option<Self> {
        let lines = bytemuck::allocation::try_zeroed_slice_box(bytes.div_ceil(64)).ok()?;
        Some(Self { lines, bytes })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.bytes]
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.bytes]
    }
}
