//! Contexts on disk: a file for each, to which the tokens of every call are appended and made durable before its end is told. After
//! a crash at whatever byte a context has all of them. K and V are not here: what is lost of these is computed again.

mod record;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use interleaf_model::Digest;

use self::record::Header;
pub use self::record::MOST_NAME;
use super::ContextId;

/// A file is written anew once it is so many times as long as its tokens are, and no shorter than this.
const MOST_WASTE: u64 = 4;
const LEAST_REWRITTEN: u64 = 64 << 10;

/// A context as its file has it.
#[derive(Debug)]
pub struct Restored {
    pub id: ContextId,
    pub app: String,
    pub tokens: Vec<u32>,
    /// Bytes at the file's end that are no record: an unfinished write, or damage. They are kept beside it, if there is room.
    pub damaged: u64,
}

/// What was found on disk.
#[derive(Debug, Default)]
pub struct Found {
    pub contexts: Vec<Restored>,
    /// Files that are no context's, or whose header is damaged.
    pub unreadable: Vec<PathBuf>,
    /// How many contexts are another model's: they stay where they are.
    pub of_others: usize,
}

#[derive(Debug)]
struct Open {
    file: File,
    header: Vec<u8>,
    /// The end of its last record.
    end: u64,
    /// Whether a record could not be written: the next one would not go on from what the file has.
    is_behind: bool,
}

/// Files of contexts, of one model.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    model: Digest,
    open: BTreeMap<ContextId, Open>,
    /// The highest number that a file has, whosever it is.
    last: u64,
}

impl Journal {
    /// Opens a folder, which is made if it is not there, and reads what there is in it.
    ///
    /// # Errors
    /// If the folder cannot be made or listed, or a file not be read or cut; with the path.
    pub fn open(folder: PathBuf, model: Digest) -> Result<(Self, Found), (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let mut journal = Self { folder, model, open: BTreeMap::new(), last: 0 };
        let mut found = Found::default();
        let mut paths = Vec::new();
        for entry in fs::read_dir(&journal.folder).map_err(at(&journal.folder))? {
            let path = entry.map_err(at(&journal.folder))?.path();
            if path.extension().is_some_and(|extension| extension == "context") {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            journal.last = journal.last.max(number(&path).unwrap_or(0));
            journal.restore(&path, &mut found).map_err(at(&path))?;
        }
        Ok((journal, found))
    }

    fn restore(&mut self, path: &Path, found: &mut Found) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).append(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let Some((header, start)) =
            Header::decode(&bytes).filter(|(header, _)| number(path) == Some(header.id))
        else {
            found.unreadable.push(path.to_owned());
            return Ok(());
        };
        if header.model != self.model {
            found.of_others += 1;
            return Ok(());
        }
        let (tokens, end) = record::replay(&bytes, start);
        let damaged = (bytes.len() - end) as u64;
        // What comes next must lie behind what is whole. What may be more than an unfinished write is left to look at; where there
        // is no room for it, it stays where it is until the next change, which writes the file anew.
        let kept = match damaged {
            0 => Ok(()),
            _ => fs::write(path.with_extension("damaged"), &bytes[end..]),
        };
        let is_behind = kept.is_err();
        if damaged > 0 && !is_behind {
            file.set_len(end as u64)?;
            file.sync_all()?;
        }
        let id = ContextId(header.id);
        found.contexts.push(Restored { id, app: header.app, tokens, damaged });
        bytes.truncate(start);
        self.open.insert(id, Open { file, header: bytes, end: end as u64, is_behind });
        Ok(())
    }

    /// The highest number that a file has had when the folder was opened.
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// A context's file.
    pub fn path(&self, ContextId(id): ContextId) -> PathBuf {
        self.folder.join(format!("{id:016x}.context"))
    }

    /// Begins an empty context's file.
    pub fn create(&mut self, id: ContextId, app: &str) -> io::Result<()> {
        let header = Header { model: self.model, id: id.0, app: app.into() }.encode();
        let mut file = OpenOptions::new().append(true).create_new(true).open(self.path(id))?;
        file.write_all(&header)?;
        file.sync_all()?;
        self.sync_folder()?;
        let end = header.len() as u64;
        self.open.insert(id, Open { file, header, end, is_behind: false });
        Ok(())
    }

    /// Makes a change of a context durable: of what it had the first `kept` tokens stay, and the others of `tokens` follow. Where that
    /// fails its file has what it had, and the next change brings it up to date.
    pub fn append(&mut self, id: ContextId, kept: usize, tokens: &[u32]) -> io::Result<()> {
        let Some(open) = self.open.get_mut(&id) else { return Err(io::ErrorKind::NotFound.into()) };
        let record = record::encode(&open.header, open.end, kept, &tokens[kept..]);
        let whole = open.header.len() as u64 + 4 * tokens.len() as u64;
        if open.is_behind || open.end + record.len() as u64 > LEAST_REWRITTEN.max(MOST_WASTE * whole) {
            return self.rewrite(id, tokens);
        }
        let written = open.file.write_all(&record).and_then(|()| open.file.sync_data());
        match written {
            Ok(()) => open.end += record.len() as u64,
            Err(_) => {
                open.is_behind = true;
                // Half of a record is cut off when the file is read; without it there is less to look at.
                let _ = open.file.set_len(open.end);
            }
        }
        written
    }

    /// Writes a context's file anew, without what it had before.
    fn rewrite(&mut self, id: ContextId, tokens: &[u32]) -> io::Result<()> {
        let path = self.path(id);
        let Some(open) = self.open.get_mut(&id) else { return Err(io::ErrorKind::NotFound.into()) };
        let start = open.header.len() as u64;
        let bytes = [&open.header[..], &record::encode(&open.header, start, 0, tokens)].concat();
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        open.file = OpenOptions::new().append(true).open(&path)?;
        (open.end, open.is_behind) = (bytes.len() as u64, false);
        self.sync_folder()
    }

    /// A context is gone, with its file.
    pub fn delete(&mut self, id: ContextId) -> io::Result<()> {
        if self.open.remove(&id).is_some() {
            fs::remove_file(self.path(id))?;
            self.sync_folder()?;
        }
        Ok(())
    }

    /// Names of files are durable only once their folder is.
    fn sync_folder(&self) -> io::Result<()> {
        if cfg!(unix) { File::open(&self.folder)?.sync_all() } else { Ok(()) }
    }
}

/// The number that a file's name says.
fn number(path: &Path) -> Option<u64> {
    u64::from_str_radix(path.file_stem()?.to_str()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: [u8; 32] = [1; 32];

    fn open(folder: &Path) -> (Journal, Found) {
        Journal::open(folder.join("contexts"), Digest::from_bytes(MODEL)).unwrap()
    }

    fn tokens(found: &Found) -> Vec<(u64, &str, &[u32])> {
        found.contexts.iter().map(|at| (at.id.0, &at.app[..], &at.tokens[..])).collect()
    }

    #[test]
    fn contexts_come_back_with_all_their_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, found) = open(folder.path());
        assert!(found.contexts.is_empty());
        let [one, two] = [1, 2].map(ContextId);
        journal.create(one, "mail").unwrap();
        journal.create(two, "notes").unwrap();
        journal.append(one, 0, &[1, 2, 3]).unwrap();
        journal.append(one, 3, &[1, 2, 3, 4]).unwrap();
        journal.append(two, 0, &[7]).unwrap();
        journal.append(one, 1, &[1, 9]).unwrap();
        drop(journal);
        let (mut journal, found) = open(folder.path());
        assert_eq!(tokens(&found), [(1, "mail", &[1, 9][..]), (2, "notes", &[7])]);
        assert_eq!(journal.last(), 2);
        journal.append(one, 2, &[1, 9, 5]).unwrap();
        journal.delete(two).unwrap();
        drop(journal);
        assert_eq!(tokens(&open(folder.path()).1), [(1, "mail", &[1, 9, 5][..])]);
    }

    #[test]
    fn an_unfinished_write_is_cut_off_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        let id = ContextId(5);
        journal.create(id, "mail").unwrap();
        journal.append(id, 0, &[1, 2]).unwrap();
        let path = journal.path(id);
        drop(journal);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend([3, 0, 0, 0, 2]);
        fs::write(&path, &bytes).unwrap();
        let (mut journal, found) = open(folder.path());
        assert_eq!((tokens(&found), found.contexts[0].damaged), (vec![(5, "mail", &[1, 2][..])], 5));
        assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), [3, 0, 0, 0, 2]);
        journal.append(id, 2, &[1, 2, 3]).unwrap();
        drop(journal);
        assert_eq!(tokens(&open(folder.path()).1), [(5, "mail", &[1, 2, 3][..])]);
    }

    #[test]
    fn what_cannot_be_kept_beside_a_file_is_no_reason_not_to_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        let id = ContextId(5);
        journal.create(id, "mail").unwrap();
        journal.append(id, 0, &[1, 2]).unwrap();
        let path = journal.path(id);
        drop(journal);
        let torn = [fs::read(&path).unwrap(), vec![3, 0, 0]].concat();
        fs::write(&path, &torn).unwrap();
        // As on a full disk.
        fs::create_dir(path.with_extension("damaged")).unwrap();
        let (mut journal, found) = open(folder.path());
        assert_eq!((tokens(&found), found.contexts[0].damaged), (vec![(5, "mail", &[1, 2][..])], 3));
        assert_eq!(fs::read(&path).unwrap(), torn);
        journal.append(id, 2, &[1, 2, 4]).unwrap();
        drop(journal);
        let found = open(folder.path()).1;
        assert_eq!((tokens(&found), found.contexts[0].damaged), (vec![(5, "mail", &[1, 2, 4][..])], 0));
    }

    #[test]
    fn what_is_another_models_or_nobodys_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        journal.create(ContextId(3), "mail").unwrap();
        let path = journal.path(ContextId(3));
        drop(journal);
        fs::write(folder.path().join("contexts/0000000000000008.context"), b"no context").unwrap();
        // Under another's number it is not its.
        fs::copy(&path, folder.path().join("contexts/0000000000000009.context")).unwrap();
        let other = Digest::from_bytes([2; 32]);
        let (journal, found) = Journal::open(folder.path().join("contexts"), other).unwrap();
        assert_eq!((found.contexts.len(), found.unreadable.len(), found.of_others), (0, 2, 1));
        assert_eq!(journal.last(), 9);
        assert!(path.exists());
    }

    #[test]
    fn what_could_not_be_written_is_written_with_what_comes_next() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        let id = ContextId(1);
        journal.create(id, "mail").unwrap();
        journal.append(id, 0, &[1, 2]).unwrap();
        let read_only = File::open(journal.path(id)).unwrap();
        journal.open.get_mut(&id).unwrap().file = read_only;
        assert!(journal.append(id, 2, &[1, 2, 3]).is_err());
        assert_eq!(tokens(&open(folder.path()).1), [(1, "mail", &[1, 2][..])]);
        journal.append(id, 3, &[1, 2, 3, 4]).unwrap();
        drop(journal);
        assert_eq!(tokens(&open(folder.path()).1), [(1, "mail", &[1, 2, 3, 4][..])]);
    }

    #[test]
    fn a_file_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        let id = ContextId(1);
        journal.create(id, "mail").unwrap();
        for turn in 0..1000 {
            journal.append(id, 0, &[turn; 100]).unwrap();
        }
        let length = fs::metadata(journal.path(id)).unwrap().len();
        assert!(length <= LEAST_REWRITTEN, "{length}");
        drop(journal);
        assert_eq!(tokens(&open(folder.path()).1), [(1, "mail", &[999; 100][..])]);
    }
}
