//! How much is swapped, and how slow the storage is made that it is measured on.

use std::time::Duration;

use crate::EngineError;

/// Chunks that leave memory, in a file of the store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwapOptions {
    /// What the file may take, in bytes.
    pub bytes: u64,
    /// Reads and writes are held back to what such storage takes; `None` to be as fast as what there is. For measuring what a
    /// phone would do on a machine whose storage or page cache is faster.
    pub profile: Option<FlashProfile>,
}

impl SwapOptions {
    /// A file of so many bytes, as fast as the storage is.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self { bytes, profile: None }
    }

    /// # Errors
    /// If it says what cannot be.
    pub(crate) fn check(&self, has_folder: bool, at_rest: bool) -> Result<(), EngineError> {
        let refuse = |option, expected, found: &str| {
            Err(EngineError::InvalidOption { option, expected, found: found.into() })
        };
        if !has_folder {
            return refuse("swap", "a store to keep it in", "none");
        }
        if at_rest {
            return refuse("swap", "without pages at rest, which are not swapped", "at_rest");
        }
        self.profile.map_or(Ok(()), |profile| profile.check())
    }
}

/// What a kind of flash storage takes for a read or a write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlashProfile {
    /// Bytes that are read in a second.
    pub read: f64,
    /// Bytes that are written in a second.
    pub write: f64,
    /// How long each operation takes besides.
    pub latency: Duration,
}

impl FlashProfile {
    /// UFS 4.0 as Samsung announced it in May 2022: 4,200 MB/s read and 2,800 MB/s written, in a row. The latency is what
    /// phones' random reads of 4 KiB leave at one operation at a time, about 40 MB/s.
    pub const UFS_4_0: Self = Self { read: 4.2e9, write: 2.8e9, latency: Duration::from_micros(100) };

    fn check(&self) -> Result<(), EngineError> {
        let is_speed = |speed: f64| speed > 0.0 && speed.is_finite();
        if is_speed(self.read) && is_speed(self.write) {
            return Ok(());
        }
        let (option, expected) = ("profile", "bytes a second, above 0");
        let found = format!("{} and {}", self.read, self.write);
        Err(EngineError::InvalidOption { option, expected, found })
    }
}
