//! Where a model's or an adapter's files come from: a folder that is mapped, bytes in the binary, or a shape
//! without weights.
//!
//! Knows nothing of what the files mean.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interleaf_contract::Bytes;
use memmap2::Mmap;

use crate::{ModelError, Shape};

/// The one file of a shape.
const CONFIG: &str = "config.json";

/// The largest text file that is read: the vocabularies of the largest tokenizers are a tenth of it.
const TEXT_LIMIT: u64 = 256 << 20;

/// A set of files by name.
#[derive(Debug, Clone)]
pub enum Source {
    /// A folder. Its weights are mapped: they must not be changed while a [`crate::Model`] or a
    /// matrix read from it is alive. Replacing a file by renaming another over it is safe.
    Dir(PathBuf),
    /// Files embedded in the binary.
    Embedded {
        /// The set's name, for messages.
        name: &'static str,
        /// Names and contents.
        files: &'static [(&'static str, &'static [u8])],
    },
    /// Files that were read: whatever becomes of those they were read from.
    Memory {
        /// Where they were, for messages.
        name: String,
        /// Names and contents.
        files: Arc<[(String, Bytes)]>,
    },
    /// A public model's `config.json`, and no other file. Opened as a model it has weights that are drawn
    /// when they are asked for: bfloat16 as stored, the same for the same seed.
    Generated {
        /// Whose sizes and options.
        shape: Shape,
        /// Decides the weights.
        seed: u64,
    },
}

impl Source {
    /// The files of a folder.
    pub fn dir(path: impl Into<PathBuf>) -> Self {
        Self::Dir(path.into())
    }

    /// A file's name in messages: its path, `embedded:<set>/<file>` or `generated:<shape>/<file>`.
    #[must_use]
    pub fn describe(&self, file: &str) -> String {
        match self {
            Self::Dir(dir) => dir.join(file).display().to_string(),
            Self::Embedded { name, .. } => format!("embedded:{name}/{file}"),
            Self::Memory { name, .. } => format!("{name}/{file}"),
            Self::Generated { shape, .. } => format!("generated:{}/{file}", shape.name),
        }
    }

    /// Whether there is such a file.
    #[must_use]
    pub fn exists(&self, file: &str) -> bool {
        match self {
            Self::Dir(dir) => dir.join(file).is_file(),
            Self::Embedded { .. } | Self::Memory { .. } | Self::Generated { .. } => self.held(file).is_some(),
        }
    }

    /// A file's bytes: a view of the mapped file or of the binary, not a copy.
    ///
    /// # Errors
    /// If the file is not there, is not a plain file, or cannot be mapped.
    pub fn read(&self, file: &str) -> Result<Bytes, ModelError> {
        match self {
            Self::Dir(dir) => {
                let (handle, len) = self.open_file(dir, file)?;
                // A mapping of no bytes is an error on some systems.
                if len == 0 {
                    return Ok(Bytes::new());
                }
                map(&handle).map_err(|source| ModelError::Io { file: self.describe(file), source })
            }
            Self::Embedded { .. } | Self::Memory { .. } | Self::Generated { .. } => {
                self.held(file).ok_or_else(|| self.missing(file))
            }
        }
    }

    /// The same files, those of a folder read into memory as far as they are there: for what may be changed or deleted while it is
    /// used.
    ///
    /// # Errors
    /// If a file that is there cannot be read.
    pub fn in_memory(&self, files: &[&str]) -> Result<Self, ModelError> {
        let Self::Dir(dir) = self else { return Ok(self.clone()) };
        let read = |file: &&str| {
            let (mut handle, len) = self.open_file(dir, file)?;
            let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
            handle
                .read_to_end(&mut bytes)
                .map_err(|source| ModelError::Io { file: self.describe(file), source })?;
            Ok(((*file).to_owned(), Bytes::from(bytes)))
        };
        let files = files.iter().filter(|file| self.exists(file)).map(read);
        let files = files.collect::<Result<Vec<(String, Bytes)>, ModelError>>()?;
        Ok(Self::Memory { name: dir.display().to_string(), files: files.into() })
    }

    /// A text file, copied.
    ///
    /// # Errors
    /// If the file is not there, cannot be read, is larger than 256 MiB or is not UTF-8.
    pub fn read_text(&self, file: &str) -> Result<String, ModelError> {
        let io_error = |source| ModelError::Io { file: self.describe(file), source };
        let too_large = |found| ModelError::TooLarge { file: self.describe(file), found, limit: TEXT_LIMIT };
        let bytes = match self {
            Self::Dir(dir) => {
                let (handle, len) = self.open_file(dir, file)?;
                if len > TEXT_LIMIT {
                    return Err(too_large(len));
                }
                let mut bytes = Vec::new();
                handle.take(TEXT_LIMIT).read_to_end(&mut bytes).map_err(io_error)?;
                bytes
            }
            Self::Embedded { .. } | Self::Memory { .. } | Self::Generated { .. } => self.read(file)?.to_vec(),
        };
        String::from_utf8(bytes).map_err(|e| ModelError::NotUtf8 {
            file: self.describe(file),
            valid: e.utf8_error().valid_up_to(),
        })
    }

    fn missing(&self, file: &str) -> ModelError {
        ModelError::MissingFile { file: self.describe(file) }
    }

    /// A file that is in memory already.
    fn held(&self, file: &str) -> Option<Bytes> {
        match self {
            Self::Dir(_) => None,
            Self::Embedded { files, .. } => {
                files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| Bytes::from_static(bytes))
            }
            Self::Memory { files, .. } => {
                files.iter().find(|(name, _)| name == file).map(|(_, bytes)| bytes.clone())
            }
            Self::Generated { shape, .. } => {
                (file == CONFIG).then(|| Bytes::from_static(shape.config.as_bytes()))
            }
        }
    }

    /// Opens a file of this source's folder and tells its length in bytes.
    fn open_file(&self, dir: &Path, file: &str) -> Result<(File, u64), ModelError> {
        // Asked before opening: opening a pipe would wait for its other end.
        if !self.exists(file) {
            return Err(self.missing(file));
        }
        let open = || {
            let handle = File::open(dir.join(file))?;
            let len = handle.metadata()?.len();
            Ok((handle, len))
        };
        open().map_err(|source| ModelError::Io { file: self.describe(file), source })
    }
}

fn map(handle: &File) -> io::Result<Bytes> {
    // SAFETY: the mapping is private and read-only, and lives as long as the `Bytes` that own it.
    // That nobody changes the file meanwhile cannot be enforced; `Source::Dir` asks for it.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(handle) }?;
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILES: &[(&str, &[u8])] = &[("a.txt", b"hello"), ("bad.txt", b"ab\xff")];
    const EMBEDDED: Source = Source::Embedded { name: "demo", files: FILES };

    #[test]
    fn reads_embedded_files_without_a_copy() {
        let bytes = EMBEDDED.read("a.txt").unwrap();
        assert_eq!(bytes.as_ptr(), FILES[0].1.as_ptr());
        assert_eq!(EMBEDDED.read_text("a.txt").unwrap(), "hello");
        assert_eq!(EMBEDDED.describe("a.txt"), "embedded:demo/a.txt");
        assert!(EMBEDDED.exists("a.txt") && !EMBEDDED.exists("b.txt"));
    }

    #[test]
    fn what_was_read_stays_whatever_becomes_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), b"hello").unwrap();
        let source = Source::dir(folder.path()).in_memory(&["a.txt", "b.txt"]).unwrap();
        std::fs::write(folder.path().join("a.txt"), b"").unwrap();
        assert_eq!(source.read_text("a.txt").unwrap(), "hello");
        assert!(source.exists("a.txt") && !source.exists("b.txt"));
        let error = source.read("b.txt").unwrap_err().to_string();
        assert!(error.contains(&folder.path().join("b.txt").display().to_string()), "{error}");
    }

    #[test]
    fn names_what_is_wrong_with_a_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        std::fs::create_dir(folder.path().join("dir")).unwrap();
        let source = Source::dir(folder.path());
        assert!(source.read("empty").unwrap().is_empty());
        for file in ["absent", "dir"] {
            let error = source.read(file).unwrap_err();
            assert!(matches!(&error, ModelError::MissingFile { .. }), "{error}");
            assert!(error.to_string().contains(file));
        }
        let error = EMBEDDED.read_text("bad.txt").unwrap_err();
        assert!(matches!(error, ModelError::NotUtf8 { valid: 2, .. }), "{error}");
        assert!(matches!(EMBEDDED.read("absent"), Err(ModelError::MissingFile { .. })));
    }
}
