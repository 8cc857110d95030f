//! A mark in the store while a model is being loaded. Where it is found later, and nobody holds it, the process that was loading did
//! not come to an end of its own: the system may have ended it for the memory it took, and would again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "loading";

/// The mark, which is taken away when this is dropped, however loading ended.
#[derive(Debug)]
pub struct Loading {
    path: PathBuf,
    /// Locked as long as it is loading.
    _file: File,
}

/// What was found.
#[derive(Debug)]
pub enum Marked {
    /// Loading may begin.
    Now(Loading),
    /// The last one did not end: the mark's file, and what it was to load.
    Failed(PathBuf, String),
    /// Another process is loading, or the folder cannot be written: nothing is known.
    Unknown,
}

impl Loading {
    /// Marks that something is being loaded.
    pub fn mark(store: &Path, what: &str, may_retry: bool) -> Marked {
        let path = store.join(FILE);
        let open = || {
            std::fs::create_dir_all(store)?;
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)
        };
        let Ok(mut file) = open() else { return Marked::Unknown };
        if file.try_lock().is_err() {
            return Marked::Unknown;
        }
        let mut before = String::new();
        let _ = file.read_to_string(&mut before);
        // Another model may well fit.
        if before == what {
            if !may_retry {
                return Marked::Failed(path, before);
            }
            tracing::warn!(
                "the last time {what} was loaded the process ended before it was; loading it again"
            );
        }
        let written =
            file.set_len(0).and_then(|()| file.write_all(what.as_bytes())).and_then(|()| file.sync_all());
        match written {
            Ok(()) => Marked::Now(Self { path, _file: file }),
            Err(_) => Marked::Unknown,
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_end_is_not_begun_again_unasked() {
        let store = tempfile::tempdir().unwrap();
        let Marked::Now(first) = Loading::mark(store.path(), "a", false) else { panic!("it may begin") };
        assert!(matches!(Loading::mark(store.path(), "a", false), Marked::Unknown), "it is being loaded");
        drop(first);
        let Marked::Now(second) = Loading::mark(store.path(), "a", false) else { panic!("it may begin") };
        // As where the process is ended: the lock goes and the mark stays.
        let path = second.path.clone();
        drop(second);
        std::fs::write(&path, "a").unwrap();
        let Marked::Failed(file, what) = Loading::mark(store.path(), "a", false) else { panic!("it failed") };
        assert_eq!((file, &*what), (path.clone(), "a"));
        let Marked::Now(other) = Loading::mark(store.path(), "b", false) else { panic!("another may") };
        drop(other);
        std::fs::write(&path, "a").unwrap();
        assert!(matches!(Loading::mark(store.path(), "a", true), Marked::Now(_)), "it was asked for");
        assert!(!path.exists());
    }
}
