//! Memory that begins on a cache line. That of weights is asked for in huge pages on Linux and Android, since a product
//! streams through all of it and would miss the translation of every small page anew.

use std::ops::{Deref, DerefMut, Range};
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
            // Only addresses: what stands before the first huge page is never touched, and what does not fill the last
            // one stays in small pages, so that no more is held than was asked for.
            let mapped = MmapMut::map_anon(bytes.checked_add(HUGE_PAGE)?).ok()?;
            let first = to_next(mapped.as_ptr() as usize, HUGE_PAGE);
            ask_for_huge_pages(&mapped[first..first + bytes / HUGE_PAGE * HUGE_PAGE]);
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
fn ask_for_huge_pages(mapped: &[u8]) {
    use rustix::mm::{Advice, madvise};

    // SAFETY: an advice changes nothing of what the mapping contains.
    let _ = unsafe { madvise(mapped.as_ptr().cast_mut().cast(), mapped.len(), Advice::LinuxHugepage) };
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn ask_for_huge_pages(_mapped: &[u8]) {}

/// Numbers to work on that begin on a cache line, so that no vector of them lies on two.
#[derive(Debug, Default)]
pub struct Floats {
    lines: Vec<FloatLine>,
    len: usize,
}

#[derive(Debug, Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct FloatLine([f32; LINE / size_of::<f32>()]);

impl Floats {
    /// So many zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut floats = Self::default();
        floats.resize(len);
        floats
    }

    /// Makes it so many, of which those that were not there before are zeros or what was there once.
    pub fn resize(&mut self, len: usize) {
        let lines = (len * size_of::<f32>()).div_ceil(LINE);
        if lines > self.lines.len() {
            self.lines.resize(lines, bytemuck::Zeroable::zeroed());
        }
        self.len = len;
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_any_size_begins_on_a_line_and_is_all_there() {
        for bytes in [0, 1, 63, 64, 4096, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 4097] {
            let mut lines = Lines::zeroed(bytes).unwrap();
            assert_eq!((lines.bytes().len(), lines.bytes().as_ptr() as usize % LINE), (bytes, 0));
            assert!(lines.bytes().iter().all(|&byte| byte == 0));
            lines.bytes_mut().fill(7);
            let memory = Arc::new(lines);
            let section = Section::new(&memory, bytes / 3..bytes / 2);
            assert!(
                section.bytes().len() == bytes / 2 - bytes / 3 && section.bytes().iter().all(|&b| b == 7)
            );
        }
    }

    #[test]
    fn numbers_begin_on_a_line_however_many_they_are() {
        let mut floats = Floats::default();
        assert!(floats.is_empty());
        for len in [1, 16, 17, 5, 1000] {
            floats.resize(len);
            assert_eq!((floats.len(), floats.as_ptr() as usize % LINE), (len, 0));
            floats.fill(1.0);
        }
        assert!(Floats::zeroed(33).iter().all(|&value| value == 0.0));
    }

    /// What a memory holds beyond its bytes would be held for every matrix of a model.
    #[cfg(target_os = "linux")]
    #[test]
    fn no_more_is_held_than_was_asked_for() {
        let bytes = HUGE_PAGE + HUGE_PAGE / 8;
        let mut memory: Vec<Lines> = (0..20).map(|_| Lines::zeroed(bytes).unwrap()).collect();
        memory.iter_mut().for_each(|lines| lines.bytes_mut().fill(1));
        let places: Vec<(usize, usize)> = memory
            .iter()
            .map(|lines| {
                let Memory::Mapped(mapped) = &lines.memory else { panic!("mapped") };
                (mapped.as_ptr() as usize, mapped.as_ptr() as usize + mapped.len())
            })
            .collect();
        // Mappings beside each other are one entry there, which may have a neighbour of another test's, too.
        let (mut ours, mut held) = (false, 0);
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            if let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
                let hex = |text| usize::from_str_radix(text, 16).unwrap();
                ours = places.iter().any(|&(first, last)| hex(start) < last && hex(end) > first);
            } else if let Some(kib) = line.strip_prefix("Rss:").filter(|_| ours) {
                held += kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10;
            }
        }
        assert!((20 * bytes..21 * bytes).contains(&held), "{held} bytes for {}", 20 * bytes);
    }
}
