//! `digests.json`: digests by folder, each with the stamps of the files that it was computed from.
//!
//! Written whole, to another file that is then renamed: a reader sees one writer's file or another's. Of two
//! who write at once the last one's stays, and what the other had found is computed again some day.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use interleaf_model::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tempfile::NamedTempFile;

use super::{Stamp, Warned};

const FILE: &str = "digests.json";

/// Raised when an entry of old would mean something else now.
const VERSION: u32 = 1;

/// What a digest is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A model.
    Model,
    /// An adapter.
    Adapter {
        /// The digest of its base's config.
        base: String,
    },
}

/// What a digest is of, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    folder: String,
    #[serde(flatten)]
    kind: Kind,
}

impl Key {
    /// `None` for a folder that is gone, or whose path is no text.
    pub fn new(kind: Kind, folder: &Path) -> Option<Self> {
        Some(Self { folder: folder.canonicalize().ok()?.to_str()?.into(), kind })
    }
}

/// A digest, and the files as they were when it was computed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub key: Key,
    pub files: Vec<Stamp>,
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub digest: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    entries: Vec<Entry>,
}

/// The file.
#[derive(Debug)]
pub struct Digests {
    folder: PathBuf,
    damaged: Warned,
    unwritable: Warned,
}

impl Digests {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, damaged: Warned::default(), unwritable: Warned::default() }
    }

    /// The digest of what is there, if it was computed from files just like these.
    pub fn find(&self, key: &Key, files: &[Stamp]) -> Option<Digest> {
        self.read()
            .into_iter()
            .find(|entry| entry.key == *key && entry.files == files)
            .map(|entry| entry.digest)
    }

    /// Keeps a digest in place of an older one, and drops those of folders that are gone.
    pub fn keep(&self, entry: Entry) {
        if self.folder.canonicalize().is_ok_and(|store| store.starts_with(&entry.key.folder)) {
            if self.unwritable.first() {
                let store = self.folder.display();
                tracing::warn!(%store, "the store is in a folder of the user's: nothing is kept there");
            }
            return;
        }
        let mut entries = self.read();
        entries.retain(|other| other.key != entry.key && Path::new(&other.key.folder).is_dir());
        entries.push(entry);
        if let Err(error) = self.write(&Content { version: VERSION, entries })
            && self.unwritable.first()
        {
            let store = self.folder.display();
            tracing::warn!(%store, %error, "the store cannot be written: digests are computed anew each time");
        }
    }

    fn read(&self) -> Vec<Entry> {
        let path = self.folder.join(FILE);
        let content = match read_plain(&path) {
            Ok(bytes) => serde_json::from_slice::<Content>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => Err(error),
        };
        let known = content.and_then(|content| match content.version {
            VERSION => Ok(content.entries),
            other => Err(io::Error::other(format!("version is {other}, expected {VERSION}"))),
        });
        known.unwrap_or_else(|error| {
            if self.damaged.first() {
                let file = path.display();
                tracing::warn!(%file, %error, "not read as a file of digests, which is built anew");
            }
            Vec::new()
        })
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer_pretty(&mut file, content)?;
        file.persist(self.folder.join(FILE))?;
        Ok(())
    }
}

/// Reads a file, if it is one and not too large to be one of digests.
fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    /// Of some ten thousand entries.
    const MOST: u64 = 16 << 20;
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > MOST {
        return Err(io::Error::other(format!("expected a plain file of at most {MOST} bytes")));
    }
    std::fs::read(path)
}

fn to_hex<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(deserializer)?;
    Digest::from_hex(&text).ok_or_else(|| serde::de::Error::custom("a digest is 64 hexadecimal digits"))
}
