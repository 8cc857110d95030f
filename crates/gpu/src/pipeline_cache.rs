//! Compiled pipelines between runs: compiling them takes seconds on some phones. What a driver gave is kept in one file
//! for each device and driver, and offered to it again; whatever is wrong with the file, the driver compiles anew.

use std::path::{Path, PathBuf};

use crate::error;

/// What a file begins with, so that nothing else is offered to a driver.
const MAGIC: &[u8; 16] = b"interleaf-pipes1";

/// A file of a driver's pipelines.
#[derive(Debug)]
pub(crate) struct PipelineCache {
    pub cache: wgpu::PipelineCache,
    file: PathBuf,
    /// The checksum of what is in the file.
    kept: Option<u64>,
}

impl PipelineCache {
    /// The cache of a device in a folder; `None` where the API has none.
    #[allow(unsafe_code)]
    pub(crate) fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let name = wgpu::util::pipeline_cache_key(info)?;
        // A driver clears what is not its own, but a file for each spares it the work.
        let driver: String =
            (info.driver_info.chars()).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let file = folder.join(format!("{name}_{driver}.pipelines"));
        let data = std::fs::read(&file).ok().and_then(|bytes| checked(&bytes).map(<[u8]>::to_vec));
        let label = Some("pipelines");
        // SAFETY: wgpu asks that the data be what `get_data` gave for this device. Only files with this crate's own
        // header and a checksum that fits are read, and they are written from `get_data` alone; wgpu and the driver check
        // once more that they are of this device and driver.
        let cache = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label,
                data: data.as_deref(),
                fallback: true,
            })
        };
        Some(Self { cache, file, kept: data.as_deref().map(checksum) })
    }

    /// Writes the cache if it has changed, in place of the file at once. A failure is said once and costs no more than
    /// compiling anew.
    pub(crate) fn keep(&mut self) {
        let Some(data) = self.cache.get_data() else { return };
        let sum = Some(checksum(&data));
        if sum == self.kept {
            return;
        }
        self.kept = sum;
        if let Err(e) = self.write(&data) {
            let file = self.file.display();
            tracing::warn!("{}", error::device(format!("{file}: pipelines are not kept: {e}")));
        }
    }

    fn write(&self, data: &[u8]) -> std::io::Result<()> {
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let beside = self.file.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&beside, framed(data))?;
        std::fs::rename(&beside, &self.file)
    }
}

impl Drop for PipelineCache {
    fn drop(&mut self) {
        self.keep();
    }
}

/// Data behind a header and its checksum.
fn framed(data: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(checksum(data).to_le_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The data of a file that is whole.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, data) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    (u64::from_le_bytes(*sum) == checksum(data)).then_some(data)
}

/// FNV-1a (Fowler, Noll and Vo): it finds a torn or damaged file, and no more is asked of it.
fn checksum(data: &[u8]) -> u64 {
    data.iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GpuBackend, GpuOptions};

    #[test]
    fn a_damaged_file_is_not_read() {
        let whole = framed(b"pipelines");
        assert_eq!(checked(&whole), Some(&b"pipelines"[..]));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(checked(&damaged), None, "byte {at}");
            assert_eq!(checked(&whole[..at]), None, "{at} bytes");
        }
        assert_eq!(checked(b""), None);
    }

    #[test]
    fn pipelines_are_kept_and_offered_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("pipelines");
        let options = GpuOptions { pipeline_cache: Some(cache.clone()), ..GpuOptions::default() };
        let run = || {
            let mut gpu = match GpuBackend::new(options.clone()) {
                Ok(gpu) => gpu,
                Err(reason) => {
                    assert!(std::env::var_os("INTERLEAF_REQUIRE_GPU").is_none(), "no GPU: {reason}");
                    println!("SKIPPED: {reason}");
                    return None;
                }
            };
            gpu.compile_some();
            drop(gpu);
            Some(std::fs::read_dir(&cache).map_or(0, Iterator::count))
        };
        let Some(files) = run() else { return };
        if files == 0 {
            println!("SKIPPED: the API keeps no pipelines");
            return;
        }
        let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        assert!(checked(&std::fs::read(&file).unwrap()).is_some_and(|data| !data.is_empty()));
        // Damaged, it is replaced.
        std::fs::write(&file, b"interleaf-pipes1 and nothing of a driver's").unwrap();
        assert_eq!(run(), Some(1));
        assert!(checked(&std::fs::read(&file).unwrap()).is_some_and(|data| !data.is_empty()));
    }
}
