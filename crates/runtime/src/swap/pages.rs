//! The file of pages: a stripe for each layer, so that one layer of many chunks lies together. What is where, and whether it is
//! whole, is not known here.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::FlashProfile;

/// Places that are so near to each other are read at once, with what is between them: at 4 GB/s that takes a fraction of what another
/// operation does.
const NEAR: u64 = 64 << 10;

/// What an operation takes at most on storage that is made slower: no storage is that slow.
const LONGEST: Duration = Duration::from_secs(60);

/// An open file of pages.
#[derive(Debug)]
pub struct PageFile {
    file: File,
    slow: Option<Arc<(FlashProfile, Bus)>>,
}

/// Bytes of the file that are read at once, and which of those that were asked for they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub at: u64,
    pub bytes: u64,
    /// By their places in what was asked.
    pub parts: Vec<usize>,
}

impl PageFile {
    /// Opens a file, which is made if there is none.
    pub fn open(path: &Path, profile: Option<FlashProfile>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let slow = profile.map(|profile| Arc::new((profile, Bus { free: Mutex::new(Instant::now()) })));
        Ok(Self { file, slow })
    }

    /// The same file for another thread.
    pub fn again(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, slow: self.slow.clone() })
    }

    /// Forgets everything in it.
    pub fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let begun = Instant::now();
        write_all_at(&self.file, bytes, at)?;
        if let Some((profile, bus)) = self.slow.as_deref() {
            bus.wait(begun, profile.latency, bytes.len() as f64 / profile.write);
        }
        Ok(())
    }

    pub fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let begun = Instant::now();
        read_exact_at(&self.file, bytes, at)?;
        if let Some((profile, bus)) = self.slow.as_deref() {
            bus.wait(begun, profile.latency, bytes.len() as f64 / profile.read);
        }
        Ok(())
    }
}

/// Reads of places in ascending order, those near to each other together.
pub fn runs(places: &[(u64, u64)]) -> Vec<Run> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_unstable_by_key(|&place| places[place]);
    let mut runs: Vec<Run> = Vec::new();
    for place in order {
        let (at, bytes) = places[place];
        match runs.last_mut() {
            Some(run) if at <= run.at + run.bytes + NEAR => {
                run.bytes = run.bytes.max(at + bytes - run.at);
                run.parts.push(place);
            }
            _ => runs.push(Run { at, bytes, parts: vec![place] }),
        }
    }
    runs
}

/// When slow storage would be done with what it was given: operations wait at the same time, and their bytes go one after the other.
#[derive(Debug)]
struct Bus {
    free: Mutex<Instant>,
}

impl Bus {
    /// Waits as long as an operation that began at some time takes, of so many seconds for its bytes.
    fn wait(&self, begun: Instant, latency: Duration, seconds: f64) {
        let bytes = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let done = (*free).max(begun + latency.min(LONGEST)) + bytes;
        *free = done;
        drop(free);
        thread::sleep(done.saturating_duration_since(Instant::now()));
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        match file.seek_write(bytes, at)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => (bytes, at) = (&bytes[written..], at + written as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        match file.seek_read(bytes, at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (bytes, at) = (&mut bytes[read..], at + read as u64),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_at_once() {
        let far = 10 * NEAR;
        let runs = runs(&[(far, 10), (100, 100), (0, 100), (200 + NEAR, 50), (far + 10, 1)]);
        let run = |at, bytes, parts: &[usize]| Run { at, bytes, parts: parts.to_vec() };
        assert_eq!(runs, [run(0, NEAR + 250, &[2, 1, 3]), run(far, 11, &[0, 4])]);
        assert_eq!(super::runs(&[]), []);
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = PageFile::open(&folder.path().join("pages"), None).unwrap();
        let other = file.again().unwrap();
        file.write(1000, b"abc").unwrap();
        file.write(10, b"xy").unwrap();
        let mut bytes = [0; 4];
        other.read(9, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0xy\0");
        assert!(other.read(1000, &mut bytes).is_err(), "behind the end");
        file.clear().unwrap();
        assert!(other.read(9, &mut bytes).is_err());
    }

    #[test]
    fn slow_storage_takes_its_time_and_waits_for_several_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let latency = Duration::from_millis(20);
        let profile = FlashProfile { read: 1e6, write: f64::INFINITY, latency };
        let file = PageFile::open(&folder.path().join("pages"), Some(profile)).unwrap();
        file.write(0, &[1; 10_000]).unwrap();
        let read = |file: &PageFile| file.read(0, &mut [0; 10_000]).unwrap();
        let start = Instant::now();
        (0..3).for_each(|_| read(&file));
        let in_turn = start.elapsed();
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| read(&file.again().unwrap()));
            }
        });
        let at_once = start.elapsed();
        assert!(in_turn >= 3 * Duration::from_millis(30), "{in_turn:?}");
        assert!(at_once >= latency + 3 * Duration::from_millis(10), "{at_once:?}");
    }
}
