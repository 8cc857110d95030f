//! A mark in the store while a model is being loaded. Where it is found later, and nobody holds it, the process that was loading did
//! not come to an end of its own: the system may have ended it for the memory it took, and would again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::EngineError;

/// The mark, which is taken away when this is dropped, however loading ended.
#[derive(Debug)]
pub struct Loading {
    path: PathBuf,
    /// Locked as long as it is loading.
    _file: File,
}

impl Loading {
    /// Marks in a file of the store that something is being loaded. `None` where there is no store, another process is loading, or the
    /// store cannot be written: nothing is known then.
    ///
    /// # Errors
    /// If the last one that loaded the same did not end of its own, unless that may be tried again.
    pub fn mark(
        store: Option<&Path>,
        file: &str,
        what: &str,
        may_retry: bool,
    ) -> Result<Option<Self>, EngineError> {
        let Some(store) = store else { return Ok(None) };
        let path = store.join(file);
        let open = || {
            std::fs::create_dir_all(store)?;
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)
        };
        let Ok(mut file) = open() else { return Ok(None) };
        if file.try_lock().is_err() {
            return Ok(None);
        }
        let mut before = String::new();
        let _ = file.read_to_string(&mut before);
        // Another model may well fit.
        if before == what {
            if !may_retry {
                return Err(EngineError::LastLoadFailed { mark: path.display().to_string(), what: before });
            }
            tracing::warn!(
                "the last time {what} was loaded the process ended before it was; loading it again"
            );
        }
        let written =
            file.set_len(0).and_then(|()| file.write_all(what.as_bytes())).and_then(|()| file.sync_all());
        Ok(written.is_ok().then(|| Self { path, _file: file }))
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
        let mark = |what, may_retry| Loading::mark(Some(store.path()), "loading", what, may_retry);
        let first = mark("a", false).unwrap().expect("it may begin");
        assert!(mark("a", false).unwrap().is_none(), "it is being loaded");
        let path = first.path.clone();
        drop(first);
        mark("a", false).unwrap().expect("it may begin");
        // As where the process is ended: the lock goes and the mark stays.
        std::fs::write(&path, "a").unwrap();
        match mark("a", false) {
            Err(EngineError::LastLoadFailed { mark, what }) => {
                assert_eq!((mark, &*what), (path.display().to_string(), "a"));
            }
            other => panic!("{other:?}"),
        }
        mark("b", false).unwrap().expect("another may");
        std::fs::write(&path, "a").unwrap();
        mark("a", true).unwrap().expect("it was asked for");
        assert!(!path.exists());
    }
}
