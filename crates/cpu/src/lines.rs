//! Memory for weights: it begins on a cache line, and on Linux it is asked for in huge pages, since a product streams
//! through all of it and would miss the translation of every small page anew.

use memmap2::MmapMut;

/// Bytes from which on memory is mapped rather than allocated: a huge page of x86 and of most arm64.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes that begin on a cache line, zeros at first.
#[derive(Debug)]
pub struct Lines(Memory);

#[derive(Debug)]
enum Memory {
    /// Words, of which so many bytes from one on are used.
    Small {
        words: Box<[u64]>,
        first: usize,
        bytes: usize,
    },
    Mapped(MmapMut),
}

impl Lines {
    /// So many bytes of zeros; `None` if there is no room.
    pub fn zeroed(bytes: usize) -> Option<Self> {
        const LINE: usize = 64;
        if bytes >= HUGE_PAGE {
            let mapped = MmapMut::map_anon(bytes).ok()?;
            // Where there are none, small pages do.
            #[cfg(target_os = "linux")]
            let _ = mapped.advise(memmap2::Advice::HugePage);
            return Some(Self(Memory::Mapped(mapped)));
        }
        let words = bytemuck::allocation::try_zeroed_slice_box::<u64>((bytes + LINE).div_ceil(8)).ok()?;
        let first = (LINE - words.as_ptr() as usize % LINE) % LINE;
        Some(Self(Memory::Small { words, first, bytes }))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Memory::Small { words, first, bytes } => &bytemuck::cast_slice(words)[*first..first + bytes],
            Memory::Mapped(mapped) => mapped,
        }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Small { words, first, bytes } => {
                &mut bytemuck::cast_slice_mut(words)[*first..*first + *bytes]
            }
            Memory::Mapped(mapped) => mapped,
        }
    }
}
