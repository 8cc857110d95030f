//! What is done with bytes that nobody vouches for: one function per kind of file, each of which reads its
//! input as that file, beside sound ones, and uses whatever is accepted; and one that takes them for events.
//!
//! The functions panic where the code under test is wrong and only there; a refusal is a right answer. They
//! are driven by `tests/fuzz` (libFuzzer) and by `tests/tests/faults/fuzz.rs` (proptest).

mod adapter;
mod golden;
mod kv;
mod model;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use interleaf_model::{Model, Source};
use tempfile::TempDir;

/// A kind of file.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// What it is called, and so the folder of its seeds.
    pub name: &'static str,
    /// Reads an input; tells how many of its readers accepted it.
    pub read: fn(&[u8]) -> usize,
}

/// Every kind.
pub const TARGETS: [Target; 5] = [
    Target { name: "safetensors", read: safetensors },
    Target { name: "config", read: config },
    Target { name: "adapter_config", read: adapter_config },
    Target { name: "golden_index", read: golden_index },
    Target { name: "kv_events", read: kv_events },
];

/// The most memory that reading a small input may hold at once, in bytes.
pub const MEMORY_LIMIT: usize = 64 << 20;

/// Where the seeds are: sound files of a model of one layer, by target.
#[must_use]
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn seed(path: &str) -> Vec<u8> {
    let path = corpus().join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A folder in each [`Folder`], for golden vectors in their other layout.
const INNER: &str = "inner";

/// A folder of sound files, some of which become the input.
struct Folder {
    dir: TempDir,
    input: &'static str,
}

impl Folder {
    /// Files with their seeds, and the names under which an input appears, all of them one file.
    fn new(sound: &[(&str, &str)], inputs: &[&'static str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join(INNER)).expect("a folder");
        for (file, from) in sound {
            std::fs::write(dir.path().join(file), seed(from)).expect("writes");
        }
        let (input, others) = inputs.split_first().expect("an input");
        std::fs::write(dir.path().join(input), b"").expect("writes");
        for other in others {
            std::fs::hard_link(dir.path().join(input), dir.path().join(other)).expect("links");
        }
        Self { dir, input }
    }

    /// Puts the input in place. Nothing that was read of the one before may still be mapped.
    fn put(&self, bytes: &[u8]) {
        // In place: some file systems wait for the disk when a file is emptied first.
        let mut file = File::options().write(true).open(self.path().join(self.input)).expect("opens");
        file.write_all(bytes).expect("writes");
        file.set_len(bytes.len() as u64).expect("cuts");
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn source(&self) -> Source {
        Source::dir(self.path())
    }
}

const MODEL: [(&str, &str); 2] =
    [("config.json", "config/llama"), ("model.safetensors", "safetensors/model")];

/// The sound model that adapters and golden vectors are for.
fn sound_model() -> Model {
    Model::open(Folder::new(&MODEL, &["input"]).source()).expect("the seeds are sound")
}

thread_local! {
    static BASE: Model = sound_model();
    static TENSORS: Folder = Folder::new(
        &[
            ("config.json", "config/llama"),
            // It names no targets, which would say beforehand what tensors there are.
            ("adapter_config.json", "adapter_config/untargeted"),
            ("index.json", "golden_index/index"),
            ("inner/golden.json", "golden_index/golden"),
        ],
        &["model.safetensors", "adapter_model.safetensors", "golden.safetensors", "inner/golden.safetensors"],
    );
    static CONFIG: Folder = Folder::new(&[("model.safetensors", "safetensors/model")], &["config.json"]);
    static ADAPTER: Folder =
        Folder::new(&[("adapter_model.safetensors", "safetensors/adapter")], &["adapter_config.json"]);
    static INDEX: Folder = Folder::new(&[("golden.safetensors", "safetensors/golden")], &["index.json"]);
    static GOLDEN: Folder = Folder::new(&[("golden.safetensors", "safetensors/golden")], &["golden.json"]);
}

/// Bytes as the tensors of a model, of an adapter and of golden vectors.
#[must_use]
pub fn safetensors(bytes: &[u8]) -> usize {
    TENSORS.with(|folder| {
        folder.put(bytes);
        let read = BASE.with(|base| {
            [
                adapter::read(&folder.source(), base),
                golden::read(folder.path(), base),
                golden::read(&folder.path().join(INNER), base),
            ]
        });
        read.into_iter().filter(|accepted| *accepted).count() + usize::from(model::read(folder.source()))
    })
}

/// Bytes as the `config.json` of a model.
#[must_use]
pub fn config(bytes: &[u8]) -> usize {
    CONFIG.with(|folder| {
        folder.put(bytes);
        usize::from(model::read(folder.source()))
    })
}

/// Bytes as the `adapter_config.json` of an adapter.
#[must_use]
pub fn adapter_config(bytes: &[u8]) -> usize {
    ADAPTER.with(|folder| {
        folder.put(bytes);
        usize::from(BASE.with(|base| adapter::read(&folder.source(), base)))
    })
}

/// Bytes as `index.json` and as `golden.json`, the two indices of golden vectors.
#[must_use]
pub fn golden_index(bytes: &[u8]) -> usize {
    let read = |folder: &Folder| {
        folder.put(bytes);
        usize::from(BASE.with(|base| golden::read(folder.path(), base)))
    };
    INDEX.with(read) + GOLDEN.with(read)
}

/// Bytes as events of the KV manager, whatever they are.
#[must_use]
pub fn kv_events(bytes: &[u8]) -> usize {
    kv::play(bytes)
}
