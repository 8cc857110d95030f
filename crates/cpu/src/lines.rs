//! Memory for weights: it begins on a cache line, and on Linux and Android it is asked for in huge pages, since a
//! product streams through all of it and would miss the translation of every small page anew.

use std::ops::Range;
use std::sync::Arc;

use memmap2::MmapMut;

/// Bytes that one prefetch brings, on every core that these tiers are for.
pub const LINE: usize = 64;

/// Bytes from which on memory is mapped rather than allocated: a huge page of x86 and of most arm64.
const HUGE_PAGE: usize = 2 << 20;

/// So many bytes and what fills their last cache line up.
pub fn whole_lines(bytes: usize) -> usize {
    bytes.next_multiple_of(LINE)
}

/// Bytes that begin on a cache line, zeros at first.
#[derive(Debug)]
pub struct Lines {
    memory: Memory,
    /// Where they begin in the memory.
    first: usize,
    bytes: usize,
}

#[derive(Debug)]
enum Memory {
    Allocated(Box<[u64]>),
    Mapped(MmapMut),
}

impl Lines {
    /// So many bytes of zeros; `None` if there is no room.
    pub fn zeroed(bytes: usize) -> Option<Self> {
        let to_next = |address: usize, unit: usize| address.next_multiple_of(unit) - address;
        if bytes >= HUGE_PAGE {
            // Only addresses: what stands before the first huge page is never touched.
            let mapped = MmapMut::map_anon(bytes.checked_add(HUGE_PAGE)?).ok()?;
            ask_for_huge_pages(&mapped);
            let first = to_next(mapped.as_ptr() as usize, HUGE_PAGE);
            return Some(Self { memory: Memory::Mapped(mapped), first, bytes });
        }
        let words = bytemuck::allocation::try_zeroed_slice_box::<u64>((bytes + LINE).div_ceil(8)).ok()?;
        let first = to_next(words.as_ptr() as usize, LINE);
        Some(Self { memory: Memory::Allocated(words), first, bytes })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let memory = match &self.memory {
            Memory::Allocated(words) => bytemuck::cast_slice(words),
            Memory::Mapped(mapped) => mapped,
        };
        &memory[self.first..self.first + self.bytes]
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let memory = match &mut self.memory {
            Memory::Allocated(words) => bytemuck::cast_slice_mut(words),
            Memory::Mapped(mapped) => &mut mapped[..],
        };
        &mut memory[self.first..self.first + self.bytes]
    }
}

/// Where there are none, small pages do.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn ask_for_huge_pages(mapped: &MmapMut) {
    use rustix::mm::{Advice, madvise};

    // SAFETY: an advice changes none of the mapping's contents.
    let _ = unsafe { madvise(mapped.as_ptr().cast_mut().cast(), mapped.len(), Advice::LinuxHugepage) };
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn ask_for_huge_pages(_mapped: &MmapMut) {}

/// Some of the bytes of a memory that is written and now shared.
#[derive(Debug)]
pub struct Section {
    memory: Arc<Lines>,
    range: Range<usize>,
}

impl Section {
    /// These bytes of a memory.
    pub fn new(memory: &Arc<Lines>, range: Range<usize>) -> Self {
        Self { memory: Arc::clone(memory), range }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[self.range.clone()]
    }
}

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
