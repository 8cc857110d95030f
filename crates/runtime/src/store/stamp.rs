//! Whether a file is still what it was, without reading it: its length, times and inode.
//!
//! A stamp says nothing of content; two files of the same content have different stamps.

use std::fs::Metadata;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Coarser than the times of any file system in use: a file that changed less than this before it was looked
/// at may change once more without another time.
const RACY: Duration = Duration::from_secs(2);

/// A file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    name: String,
    len: u64,
    /// Nanoseconds since 1970 of the last change of content, which programs may set as they like.
    modified: i64,
    /// Of the last change of anything, which they may not. Where the system has it.
    changed: Option<i64>,
    inode: Option<u64>,
}

impl Stamp {
    fn of(folder: &Path, name: &str) -> Option<Self> {
        let metadata = folder.join(name).metadata().ok()?;
        let (changed, inode) = identity(&metadata);
        let modified = nanoseconds(metadata.modified().ok()?)?;
        Some(Self { name: name.into(), len: metadata.len(), modified, changed, inode })
    }

    /// The later of its times.
    fn latest(&self) -> i64 {
        self.changed.map_or(self.modified, |changed| changed.max(self.modified))
    }
}

/// The stamps of files in a folder; `None` if one cannot be looked at, or has changed since shortly before
/// `when`: then neither can what was opened at `when` be told from what is there now, nor what is there now
/// from what will be there in the same tick of the file system's clock.
pub fn settled(folder: &Path, files: &[&str], when: SystemTime) -> Option<Vec<Stamp>> {
    let limit = nanoseconds(when.checked_sub(RACY)?)?;
    let stamps: Vec<Stamp> = files.iter().map(|file| Stamp::of(folder, file)).collect::<Option<_>>()?;
    stamps.iter().all(|stamp| stamp.latest() < limit).then_some(stamps)
}

/// Nanoseconds since 1970, for the next two centuries.
fn nanoseconds(time: SystemTime) -> Option<i64> {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).ok(),
        Err(before) => i64::try_from(before.duration().as_nanos()).ok().map(|nanoseconds| -nanoseconds),
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (Option<i64>, Option<u64>) {
    use std::os::unix::fs::MetadataExt;
    let changed =
        metadata.ctime().checked_mul(1_000_000_000).and_then(|s| s.checked_add(metadata.ctime_nsec()));
    (changed, Some(metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (Option<i64>, Option<u64>) {
    (None, None)
}
