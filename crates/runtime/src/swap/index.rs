//! What lies in the file of pages, for the next run: a file of records, one for each chunk that is there and one for each that is
//! there no more. What chunks mean to each other is the KV manager's; here they have numbers.
//!
//! ```text
//! header   "ILEAFSW1" · digest of all that pages' bits and places depend on 32 · check 8
//! record   length of its body u32 · body · check 8
//! ```
//!
//! Bodies are postcard's encoding of [`Record`]. A check is the beginning of the BLAKE3 digest of the header, of where the record
//! begins and of its bytes. Nothing is made durable: a chunk is a cache, and what a crash leaves behind is found out by its checks.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use interleaf_contract::CHUNK_TOKENS;
use interleaf_model::Digest;
use serde::{Deserialize, Serialize};

use crate::checked::{CHECK, check};

const MAGIC: [u8; 8] = *b"ILEAFSW1";
const HEADER: usize = 8 + 32 + CHECK;

/// Names a chunk in the file. No two of a file have had the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Number(pub u64);

/// A chunk of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub parent: Option<Number>,
    pub anchor: Option<Number>,
    /// The digest of an adapter's factors, and the bits of its scale.
    pub adapter: Option<([u8; 32], u32)>,
    pub tokens: [u32; CHUNK_TOKENS],
    pub layers: (u8, u8),
    pub form: u8,
    pub drift: f32,
    pub least_budget: f32,
    pub places: Vec<u64>,
    /// Of each of its pages, XXH3.
    pub checks: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Record {
    Stored(Number, Box<Entry>),
    Forgotten(Number),
}

/// It is written anew once it is so many times as long as what is there takes, and no shorter than this.
const MOST_WASTE: u64 = 4;
const LEAST_REWRITTEN: u64 = 1 << 20;

/// An open index.
#[derive(Debug)]
pub struct Index {
    file: File,
    header: Vec<u8>,
    end: u64,
    /// Bytes of the records of what is there.
    live: HashMap<Number, u64>,
    live_bytes: u64,
}

/// What an index had.
#[derive(Debug, Default)]
pub struct Found {
    /// What is there, by number: what a chunk depends on has a lower one.
    pub entries: BTreeMap<Number, Entry>,
    /// The highest number that there was.
    pub last: u64,
    /// Bytes at the end that are no record.
    pub damaged: u64,
    /// Whether it was of other pages, all of which are forgotten.
    pub was_other: bool,
    /// Whether nobody can tell of which pages it was.
    pub is_header_damaged: bool,
}

impl Index {
    /// Opens an index, which is made if there is none, and reads it. It stays locked as long as it is open.
    ///
    /// # Errors
    /// If the file cannot be read or written, or another process has it open ([`io::ErrorKind::WouldBlock`]).
    pub fn open(path: &Path, of: Digest) -> io::Result<(Self, Found)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        let mut header = [&MAGIC[..], of.as_bytes()].concat();
        let own = check(&[&header]);
        header.extend(own);
        let mut index = Self { file, header, end: 0, live: HashMap::new(), live_bytes: 0 };
        let found = index.read()?;
        // Without what is no longer so.
        index.rewrite(&found.entries)?;
        Ok((index, found))
    }

    /// What the file has.
    fn read(&mut self) -> io::Result<Found> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        let is_own = bytes.starts_with(&self.header);
        let mut found = Found { was_other: !is_own && !bytes.is_empty(), ..Found::default() };
        found.is_header_damaged = found.was_other && !is_header(&bytes);
        let mut at = HEADER;
        while is_own && let Some((record, length)) = decode(&bytes, &self.header, at) {
            found.take(record);
            at += length;
        }
        found.damaged = if is_own { (bytes.len() - at) as u64 } else { 0 };
        Ok(found)
    }

    fn rewrite(&mut self, entries: &BTreeMap<Number, Entry>) -> io::Result<()> {
        let mut bytes = self.header.clone();
        self.live.clear();
        for (number, entry) in entries {
            let at = bytes.len() as u64;
            let record = encode(&Record::Stored(*number, Box::new(entry.clone())), &self.header, at);
            self.live.insert(*number, record.len() as u64);
            bytes.extend(record);
        }
        self.live_bytes = (bytes.len() - self.header.len()) as u64;
        // Whatever a crash leaves of this was a cache.
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.end = bytes.len() as u64;
        let written = self.file.write_all(&bytes);
        if written.is_err() {
            // What comes next lies behind what is there: nothing, or a header.
            (self.end, self.live_bytes) = (self.header.len() as u64, 0);
            self.live.clear();
            self.file.set_len(self.end)?;
        }
        written
    }

    /// A chunk is there.
    pub fn stored(&mut self, number: Number, entry: Entry) -> io::Result<()> {
        let bytes = self.append(&Record::Stored(number, Box::new(entry)))?;
        self.live_bytes += bytes;
        self.live.insert(number, bytes);
        self.shorten()
    }

    /// A chunk is there no more.
    pub fn forgotten(&mut self, number: Number) -> io::Result<()> {
        self.append(&Record::Forgotten(number))?;
        self.live_bytes -= self.live.remove(&number).unwrap_or(0);
        self.shorten()
    }

    /// Writes it anew where most of it is of what is there no more.
    fn shorten(&mut self) -> io::Result<()> {
        if self.end <= LEAST_REWRITTEN.max(MOST_WASTE * self.live_bytes) {
            return Ok(());
        }
        let found = self.read()?;
        self.rewrite(&found.entries)
    }

    /// Returns how long it is.
    fn append(&mut self, record: &Record) -> io::Result<u64> {
        let bytes = encode(record, &self.header, self.end);
        let written = self.file.seek(SeekFrom::Start(self.end)).and_then(|_| self.file.write_all(&bytes));
        match written {
            Ok(()) => self.end += bytes.len() as u64,
            // What comes next must lie behind what is whole.
            Err(_) => self.file.set_len(self.end)?,
        }
        written.map(|()| bytes.len() as u64)
    }
}

impl Found {
    fn take(&mut self, record: Record) {
        match record {
            Record::Stored(number, entry) => {
                self.last = self.last.max(number.0);
                self.entries.insert(number, *entry);
            }
            Record::Forgotten(number) => {
                self.entries.remove(&number);
            }
        }
    }
}

/// Whether an index begins as one does, of whatever pages.
fn is_header(bytes: &[u8]) -> bool {
    let (digested, header) = (bytes.get(..HEADER - CHECK), bytes.get(..HEADER));
    digested.zip(header).is_some_and(|(digested, header)| {
        digested.starts_with(&MAGIC) && header.ends_with(&check(&[digested]))
    })
}

fn encode(record: &Record, header: &[u8], at: u64) -> Vec<u8> {
    // Into memory nothing fails; were it otherwise, an empty body would be no record.
    let body = postcard::to_allocvec(record).unwrap_or_default();
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    let check = check(&[header, &at.to_le_bytes(), &bytes]);
    bytes.extend(check);
    bytes
}

fn decode(bytes: &[u8], header: &[u8], at: usize) -> Option<(Record, usize)> {
    let length = u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize;
    let end = at.checked_add(4)?.checked_add(length)?;
    let own = bytes.get(at..end)?;
    if bytes.get(end..end.checked_add(CHECK)?)? != check(&[header, &(at as u64).to_le_bytes(), own]) {
        return None;
    }
    Some((postcard::from_bytes(&own[4..]).ok()?, own.len() + CHECK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first: u32) -> Entry {
        Entry {
            parent: (first > 1).then(|| Number(u64::from(first) - 1)),
            anchor: None,
            adapter: Some(([3; 32], 7)),
            tokens: std::array::from_fn(|i| first * 100 + i as u32),
            layers: (0, 4),
            form: 1,
            drift: 0.5,
            least_budget: f32::INFINITY,
            places: vec![1, 2 << 32, u64::MAX, u64::from(first)],
            checks: vec![9, 8, 7, 6],
        }
    }

    fn open(path: &Path) -> (Index, Found) {
        Index::open(path, Digest::from_bytes([5; 32])).unwrap()
    }

    /// An index of three chunks, the second of which is forgotten, and where its records end.
    fn written(path: &Path) -> Vec<u64> {
        let (mut index, found) = open(path);
        assert!(found.entries.is_empty() && !found.was_other);
        let mut ends = vec![index.end];
        for number in 1..=3 {
            index.stored(Number(number), entry(number as u32)).unwrap();
            ends.push(index.end);
        }
        index.forgotten(Number(2)).unwrap();
        ends.push(index.end);
        ends
    }

    #[test]
    fn what_is_there_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let ends = written(&path);
        let (index, found) = open(&path);
        let there: Vec<(u64, &Entry)> =
            found.entries.iter().map(|(number, entry)| (number.0, entry)).collect();
        assert_eq!(there, [(1, &entry(1)), (3, &entry(3))]);
        assert_eq!((found.last, found.damaged), (3, 0));
        assert!(index.end < *ends.last().unwrap(), "without what is forgotten");
        let held = Index::open(&path, Digest::from_bytes([5; 32])).map(|_| ()).unwrap_err();
        assert_eq!(held.kind(), io::ErrorKind::WouldBlock);
        drop(index);
        let (_, found) = Index::open(&path, Digest::from_bytes([6; 32])).unwrap();
        assert!(found.was_other && !found.is_header_damaged && found.entries.is_empty());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(open(&path).1.is_header_damaged);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let (mut index, _) = open(&path);
        let most = 3 * LEAST_REWRITTEN / u64::from(written(&folder.path().join("other"))[1] as u32);
        for number in 1..=most {
            index.stored(Number(number), entry(number as u32)).unwrap();
            if number > 8 {
                index.forgotten(Number(number - 8)).unwrap();
            }
            assert!(index.end <= LEAST_REWRITTEN);
        }
        drop(index);
        let (_, found) = open(&path);
        assert_eq!((found.last, found.damaged), (most, 0));
        let there: Vec<u64> = found.entries.keys().map(|number| number.0).collect();
        assert_eq!(there, (most - 7..=most).collect::<Vec<_>>());
        assert!(found.entries.iter().all(|(number, found)| *found == entry(number.0 as u32)));
    }

    #[test]
    fn whatever_byte_is_cut_off_or_flipped_no_record_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let ends = written(&path);
        let whole = std::fs::read(&path).unwrap();
        let expected = |records: usize| {
            let mut all: Vec<(u64, Entry)> =
                (1..=records.min(3)).map(|n| (n as u64, entry(n as u32))).collect();
            all.retain(|(number, _)| records < 4 || *number != 2);
            all
        };
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let (_, found) = open(&path);
            let entries: Vec<(u64, Entry)> =
                found.entries.into_iter().map(|(number, entry)| (number.0, entry)).collect();
            (entries, found.damaged)
        };
        for end in 0..whole.len() {
            let records = ends.iter().filter(|at| **at <= end as u64).count().saturating_sub(1);
            let start = if (end as u64) < ends[0] { end as u64 } else { ends[records] };
            assert_eq!(read(&whole[..end]), (expected(records), end as u64 - start), "{end}");
        }
        for byte in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1 << (byte % 8);
            let records = ends.iter().filter(|at| **at <= byte as u64).count().saturating_sub(1);
            assert_eq!(read(&bytes).0, expected(records), "{byte}");
        }
    }
}
