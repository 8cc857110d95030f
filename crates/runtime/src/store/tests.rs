//! The store on folders whose files are as old as a test needs them to be.

use std::path::Path;
use std::time::Duration;

use DigestOrigin::{Cached, Computed};

use super::*;
use crate::{Engine, EngineOptions};

const LONG_AGO: Duration = Duration::from_secs(3600);

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/families").join(name)
}

/// A copy of the files of a folder.
fn copy(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        if file.is_file() {
            std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
        }
    }
    folder
}

/// A time at which files that a test has just written have long been there.
fn later() -> SystemTime {
    SystemTime::now() + LONG_AGO
}

fn model(folder: &Path) -> Model {
    Model::open(Source::dir(folder)).unwrap()
}

/// What a store says of a model, as of an opening when its files have long been there.
fn digest(store: &Path, folder: &Path) -> (Digest, DigestOrigin) {
    Store::new(Some(store.into())).model_digest(&model(folder), later())
}

#[test]
fn a_second_opening_does_not_hash_again() {
    let (store, folder) = (tempfile::tempdir().unwrap(), copy(&data("llama-rope3")));
    let (first, origin) = digest(store.path(), folder.path());
    assert_eq!((first, origin), (model(folder.path()).digest(), Computed));
    assert_eq!(digest(store.path(), folder.path()), (first, Cached));
    // By another path to the same folder.
    let other = folder.path().join("../").join(folder.path().file_name().unwrap());
    assert_eq!(digest(store.path(), &other), (first, Cached));
    // Only the store has been written to.
    assert_eq!(std::fs::read_dir(store.path()).unwrap().count(), 1);
}

#[test]
fn the_same_content_elsewhere_has_the_same_digest() {
    let (store, from) = (tempfile::tempdir().unwrap(), data("qwen3"));
    let (one, other) = (copy(&from), copy(&from));
    let digest = |folder: &tempfile::TempDir| digest(store.path(), folder.path());
    let (first, second) = (digest(&one), digest(&other));
    assert_eq!((first.0, second.1), (second.0, Computed));
}

#[test]
fn a_change_of_content_is_noticed() {
    let (store, folder) = (tempfile::tempdir().unwrap(), copy(&data("qwen3")));
    let before = digest(store.path(), folder.path());
    let path = folder.path().join("model.safetensors");
    let written = path.metadata().unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    // The clock of a file system ticks every few milliseconds; what a real opening waits for is skipped here.
    std::thread::sleep(Duration::from_millis(50));
    bytes[last] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    // The same length and time: the inode and the time of change, which cannot be set, still tell.
    if cfg!(unix) {
        std::fs::File::open(&path).unwrap().set_modified(written).unwrap();
    }
    let after = digest(store.path(), folder.path());
    assert_eq!((after.1, after.0 == before.0), (Computed, false));
    assert_eq!(digest(store.path(), folder.path()), (after.0, Cached));

    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("1e-06", "1e-05", 1)).unwrap();
    let (changed, origin) = digest(store.path(), folder.path());
    assert_eq!((origin, changed == after.0), (Computed, false));
}

#[test]
fn files_that_have_just_changed_are_not_trusted() {
    let (store, folder) = (tempfile::tempdir().unwrap(), copy(&data("qwen3")));
    let model = model(folder.path());
    let at = |time| Store::new(Some(store.path().into())).model_digest(&model, time).1;
    let now = SystemTime::now();
    assert_eq!([at(now), at(now)], [Computed; 2]);
    assert!(!store.path().join("digests.json").exists(), "nothing is kept of them");
    assert_eq!([at(later()), at(later())], [Computed, Cached]);
    // A model opened before its files were replaced is not what another run has found in them since.
    assert_eq!(at(now), Computed);
}

#[test]
fn an_adapters_digest_is_kept_by_its_base() {
    let (store, folder) = (tempfile::tempdir().unwrap(), copy(&data("qwen2/adapter")));
    let source = Source::dir(folder.path());
    let digest = |base: &Model| {
        let adapter = PeftAdapter::open("a", &source, base).unwrap();
        let store = Store::new(Some(store.path().into()));
        let (digest, origin) = store.adapter_digest(&adapter, &source, base, later());
        assert_eq!(digest, adapter.digest());
        origin
    };
    let base = model(&data("qwen2"));
    assert_eq!([digest(&base), digest(&base)], [Computed, Cached]);
    let other = copy(&data("qwen2"));
    let config = other.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("1e-06", "1e-05", 1)).unwrap();
    let other = model(other.path());
    assert_eq!([digest(&other), digest(&other), digest(&base)], [Computed, Cached, Cached]);
}

/// An engine runs on with the files it opened, whatever stands at their path later.
#[test]
fn a_folder_that_is_exchanged_does_not_change_what_is_open() {
    let (store, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (copy(&data("qwen3")), copy(&data("qwen2")));
    let path = place.path().join("model");
    std::fs::rename(one.keep(), &path).unwrap();
    let opened = model(&path);
    let seen = Seen::model(&opened, later());
    std::fs::rename(&path, place.path().join("old")).unwrap();
    std::fs::rename(other.keep(), &path).unwrap();
    let (second, origin) = digest(store.path(), &path);
    assert_eq!((second, origin), (model(&path).digest(), Computed));

    let store = Store::new(Some(store.path().into()));
    for _ in 0..2 {
        let (found, origin) = store.digest_of_model(&opened, &seen);
        assert_eq!(
            (found, origin),
            (opened.digest(), Computed),
            "not the other's, and not kept for its path"
        );
        assert_ne!(found, second);
    }
    assert_eq!(store.model_digest(&model(&path), later()), (second, Cached));
}

#[test]
fn embedded_models_and_no_store_are_computed() {
    let folder = copy(&data("qwen3"));
    let model = model(folder.path());
    let store = Store::default();
    assert_eq!(store.model_digest(&model, later()), (model.digest(), Computed));
    assert_eq!(store.model_digest(&model, later()).1, Computed);
}

#[test]
fn a_damaged_file_is_built_anew() {
    let (store, folder) = (tempfile::tempdir().unwrap(), copy(&data("qwen3")));
    let file = store.path().join("digests.json");
    let expected = digest(store.path(), folder.path()).0;
    let whole = std::fs::read_to_string(&file).unwrap();
    let digits = expected.to_string();
    let damaged = [
        &whole[..whole.len() / 2],
        "",
        "[]",
        "\0\0\0",
        &whole.replacen("\"version\": 1", "\"version\": 9", 1),
        &whole.replacen(&digits, &digits[1..], 1),
    ];
    for damaged in damaged {
        assert_ne!(damaged, whole);
        std::fs::write(&file, damaged).unwrap();
        assert_eq!(digest(store.path(), folder.path()), (expected, Computed), "{damaged}");
        assert_eq!(digest(store.path(), folder.path()), (expected, Cached), "{damaged}");
    }
}

#[test]
fn a_store_that_cannot_be_written_fails_nothing() {
    let folder = copy(&data("qwen3"));
    // A file where the folder would be: refused to every user, root included.
    let (_keep, path) = tempfile::NamedTempFile::new().unwrap().into_parts();
    for store in [path.to_path_buf(), path.join("below")] {
        assert_eq!(digest(&store, folder.path()).1, Computed);
        assert_eq!(digest(&store, folder.path()).1, Computed);
    }
}

#[cfg(unix)]
#[test]
fn a_store_that_may_only_be_read_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let (store, folder) = (tempfile::tempdir().unwrap(), copy(&data("qwen3")));
    let first = digest(store.path(), folder.path()).0;
    let mode = |mode| std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o500);
    let other = copy(&data("qwen2"));
    let (again, new) = (digest(store.path(), folder.path()), digest(store.path(), other.path()));
    mode(0o700);
    assert_eq!((again, new.1), ((first, Cached), Computed));
}

#[test]
fn folders_that_are_gone_are_forgotten() {
    let (store, gone, there) = (tempfile::tempdir().unwrap(), copy(&data("qwen3")), copy(&data("qwen3")));
    let entries = || {
        let text = std::fs::read_to_string(store.path().join("digests.json")).unwrap();
        text.matches("\"digest\"").count()
    };
    let _ = digest(store.path(), gone.path());
    let _ = digest(store.path(), &data("qwen2"));
    assert_eq!(entries(), 2);
    gone.close().unwrap();
    let _ = digest(store.path(), there.path());
    assert_eq!(entries(), 2);
}

#[test]
fn writers_at_once_leave_a_whole_file() {
    let store = tempfile::tempdir().unwrap();
    let folders: Vec<_> = (0..8).map(|_| copy(&data("qwen3"))).collect();
    let expected = model(folders[0].path()).digest();
    std::thread::scope(|scope| {
        for folder in &folders {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(digest(store.path(), folder.path()).0, expected);
                }
            });
        }
    });
    let bytes = std::fs::read(store.path().join("digests.json")).unwrap();
    let content: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert!(!content["entries"].as_array().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(store.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn an_engine_keeps_digests_in_its_store() {
    let (store, folder) = (tempfile::tempdir().unwrap(), data("qwen3"));
    let options = EngineOptions { store: Some(store.path().into()), ..EngineOptions::default() };
    for _ in 0..2 {
        let mut engine = Engine::open(Source::dir(&folder), &options, &mut |_| ()).unwrap();
        assert_eq!(engine.model_digest(), model(&folder).digest());
        let source = Source::dir(folder.join("adapter"));
        let summary = engine.register_adapter("a", &source).unwrap();
        assert_eq!(summary.digest, PeftAdapter::open("b", &source, engine.model()).unwrap().digest());
    }
    assert!(store.path().join("digests.json").is_file());
}
