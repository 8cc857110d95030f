//! Contexts on disk: a file for each, to which the tokens of every call are appended and made durable before its end is told. After
//! a crash at whatever byte a context has all of them. K and V are not here: what is lost of these is computed again.

mod record;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use interleaf_model::Digest;

use self::record::Header;
pub use self::record::MOST_NAME;
use super::ContextId;

/// A file is written anew once it is so many times as long as its tokens are, and no shorter than this.
const MOST_WASTE: u64 = 4;
const LEAST_REWRITTEN: u64 = 64 << 10;

/// What files are named by until they are whole.
const UNFINISHED: &str = ".unfinished-";

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
    /// Files that are no context's, whose header is damaged, or that cannot be read.
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
    /// The highest number that a context has had, whosever it is.
    last: u64,
    /// Locked as long as this is there: two that append to the same files would each take the other's records for damage. It has the
    /// highest number of those that were deleted.
    lock: File,
}

impl Journal {
    /// Opens a folder, which is made if it is not there, and reads what there is in it.
    ///
    /// # Errors
    /// If the folder cannot be made or listed, or somebody else has it open; with the path.
    pub fn open(folder: PathBuf, model: Digest) -> Result<(Self, Found), (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let above = folder.parent().unwrap_or(Path::new("."));
        sync_folder(above).map_err(at(above))?;
        let path = folder.with_extension("lock");
        let mut lock = locked(&path).map_err(at(&path))?;
        let mut deleted = String::new();
        // Of whoever was ended while it wrote that, the number is on a file still.
        let _ = lock.read_to_string(&mut deleted);
        let last = deleted.trim().parse().unwrap_or(0);
        let mut journal = Self { folder, model, open: BTreeMap::new(), last, lock };
        let mut found = Found::default();
        let mut paths = Vec::new();
        for entry in fs::read_dir(&journal.folder).map_err(at(&journal.folder))? {
            let path = entry.map_err(at(&journal.folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.extension().is_some_and(|extension| extension == "context") {
                paths.push(path);
            } else if name.starts_with(UNFINISHED) {
                // One that cannot be removed now can another time.
                let _ = fs::remove_file(path);
            }
        }
        paths.sort();
        for path in paths {
            journal.last = journal.last.max(number(&path).unwrap_or(0));
            // One that cannot be read costs no other, unless that is the process's own fault.
            match journal.restore(&path, &mut found) {
                Err(error) if has_too_many_files(&error) => return Err((path, error)),
                Err(error) => {
                    tracing::warn!("{}: {error}", path.display());
                    found.unreadable.push(path);
                }
                Ok(()) => {}
            }
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

    /// The highest number that a context has had, whosever it was.
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
        // There only once it is whole.
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).append(true).tempfile_in(&self.folder)?;
        file.write_all(&header)?;
        file.as_file().sync_all()?;
        let path = self.path(id);
        let file = file.persist_noclobber(&path)?;
        if let Err(error) = sync_folder(&self.folder) {
            // Nobody is told of it.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        let end = header.len() as u64;
        self.last = self.last.max(id.0);
        self.open.insert(id, Open { file, header, end, is_behind: false });
        Ok(())
    }

    /// Makes a change of a context durable: of what it had the first `kept` tokens stay, and the others of `tokens` follow. Where that
    /// fails its file has what it had, and the next change brings it up to date. Says whether there is such a context.
    pub fn append(&mut self, id: ContextId, kept: usize, tokens: &[u32]) -> io::Result<bool> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(false) };
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
        written.map(|()| true)
    }

    /// Writes a context's file anew, without what it had before.
    fn rewrite(&mut self, id: ContextId, tokens: &[u32]) -> io::Result<bool> {
        let path = self.path(id);
        let Some(open) = self.open.get_mut(&id) else { return Ok(false) };
        // Until all of it is there: who called goes on from tokens that the old file does not have.
        open.is_behind = true;
        let start = open.header.len() as u64;
        let bytes = [&open.header[..], &record::encode(&open.header, start, 0, tokens)].concat();
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).append(true).tempfile_in(&self.folder)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        (open.file, open.end) = (file.persist(&path)?, bytes.len() as u64);
        sync_folder(&self.folder)?;
        open.is_behind = false;
        Ok(true)
    }

    /// Keeps the highest number that there was.
    fn note_last(&mut self) -> io::Result<()> {
        self.lock.rewind()?;
        self.lock.write_all(format!("{:020}\n", self.last).as_bytes())?;
        self.lock.sync_all()
    }

    /// A context is gone, with its file. Its number is not given again.
    pub fn delete(&mut self, id: ContextId) -> io::Result<()> {
        if !self.open.contains_key(&id) {
            return Ok(());
        }
        if id.0 == self.last
            && let Err(error) = self.note_last()
        {
            // What is to be gone goes all the same, also from a full disk.
            tracing::warn!(
                "{}: {error}; {id}'s number may be given again after a restart",
                self.folder.display()
            );
        }
        fs::remove_file(self.path(id))?;
        self.open.remove(&id);
        sync_folder(&self.folder)
    }
}

/// Whether this process, or the system, can open no more files: `EMFILE` and `ENFILE` of POSIX systems.
fn has_too_many_files(error: &io::Error) -> bool {
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

/// Names of files are durable only once their folder is.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// A file that nobody else has locked, where files can be.
fn locked(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "expected that no other service has these contexts",
        )),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(error),
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
        // What another process would find if this one ended here.
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("contexts")).unwrap();
        let path = journal.path(id);
        fs::copy(&path, copy.path().join("contexts").join(path.file_name().unwrap())).unwrap();
        assert_eq!(tokens(&open(copy.path()).1), [(1, "mail", &[1, 2][..])]);
        journal.append(id, 3, &[1, 2, 3, 4]).unwrap();
        drop(journal);
        assert_eq!(tokens(&open(folder.path()).1), [(1, "mail", &[1, 2, 3, 4][..])]);
    }

    #[test]
    fn a_folder_is_open_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = open(folder.path());
        let again = || Journal::open(folder.path().join("contexts"), Digest::from_bytes(MODEL));
        let (path, error) = again().unwrap_err();
        assert_eq!((path, error.kind()), (folder.path().join("contexts.lock"), io::ErrorKind::WouldBlock));
        drop(journal);
        again().unwrap();
    }

    #[test]
    fn a_file_that_could_not_be_written_anew_is_once_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        let id = ContextId(1);
        journal.create(id, "mail").unwrap();
        // As on a full disk: there is no other file to be had, which is needed once this one is too long.
        let contexts = std::mem::replace(&mut journal.folder, folder.path().join("none"));
        let mut text = vec![0; 200];
        while journal.append(id, 0, &text).is_ok() {
            text = vec![text[0] + 1; 200];
        }
        assert!(text[0] > 1);
        journal.folder = contexts;
        // It goes on from what was not written, and takes so little that it could be appended.
        let more = [&text[..], &[7]].concat();
        assert!(journal.append(id, 200, &more).unwrap());
        drop(journal);
        let found = open(folder.path()).1;
        assert_eq!(tokens(&found), [(1, "mail", &more[..])]);
        assert_eq!(found.contexts[0].damaged, 0);
    }

    #[test]
    fn what_was_begun_is_swept_and_no_number_is_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(folder.path());
        journal.create(ContextId(1), "mail").unwrap();
        journal.create(ContextId(2), "mail").unwrap();
        journal.delete(ContextId(2)).unwrap();
        assert!(!journal.append(ContextId(2), 0, &[1]).unwrap(), "it is gone");
        drop(journal);
        let begun = folder.path().join("contexts").join(format!("{UNFINISHED}1"));
        fs::write(&begun, [1, 2]).unwrap();
        let (mut journal, found) = open(folder.path());
        assert_eq!((journal.last(), found.contexts.len(), found.unreadable.len()), (2, 1, 0));
        assert!(!begun.exists());
        // As where there is a file of the number that nobody is to lose.
        fs::write(journal.path(ContextId(3)), b"another's").unwrap();
        assert!(journal.create(ContextId(3), "mail").is_err());
        assert_eq!(fs::read(journal.path(ContextId(3))).unwrap(), b"another's");
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
