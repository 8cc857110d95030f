//! Files that are missing, in the wrong place or of the wrong kind.

use interleaf_runtime::{Source, WeightFormat};
use serde_json::{Value, json};

use super::{Q1, are_refused, open, sound};
use crate::build::{CONFIG, Folder, INDEX, MODEL};

#[test]
fn folders_without_the_right_files() {
    let index = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| sound().write_shards(0, change);
    let naming = |shard: &str| index(&|map| _ = map.insert(Q1.into(), json!(shard)));
    are_refused(|| {
        vec![
            ("no config", sound().write().without(CONFIG), vec![CONFIG, "no such file"]),
            ("nothing", Folder::new(), vec![CONFIG, "no such file"]),
            ("an empty config", sound().write().file(CONFIG, ""), vec![CONFIG, "not JSON"]),
            (
                "a config cut short",
                sound().write().file(CONFIG, "{\"vocab_size\": 1"),
                vec![CONFIG, "not JSON"],
            ),
            ("a config of text", sound().write().file(CONFIG, "vocab_size: 1"), vec![CONFIG, "not JSON"]),
            ("a config that is a list", sound().write().file(CONFIG, "[]"), vec![CONFIG, "not JSON", "map"]),
            ("a config of bytes", sound().write().file(CONFIG, [0xff; 9]), vec![CONFIG, "not UTF-8"]),
            (
                "a config in depth",
                sound().write().file(CONFIG, "[".repeat(100_000)),
                vec![CONFIG, "not JSON"],
            ),
            ("a folder for a config", sound().write().folder(CONFIG), vec![CONFIG, "no such file"]),
            ("no tensors", sound().write().without(MODEL), vec![MODEL, "no such file"]),
            ("a folder for tensors", sound().write().folder(MODEL), vec![MODEL, "no such file"]),
            (
                "a pickle",
                sound().write().without(MODEL).file("pytorch_model.bin", "x"),
                vec!["pytorch_model.bin", "pickle", MODEL],
            ),
            (
                "pickled shards",
                sound().write().without(MODEL).file("pytorch_model.bin.index.json", "{}"),
                vec!["pytorch_model.bin.index.json", "pickle", MODEL],
            ),
            (
                "a missing shard",
                index(&|_| ()).without("2.safetensors"),
                vec!["2.safetensors", "no such file"],
            ),
            (
                "a shard that the index does not have",
                index(&|map| map.retain(|_, shard| shard == "1.safetensors")),
                vec![INDEX, "tensor", "is missing"],
            ),
            (
                "a tensor that no shard has",
                index(&|map| _ = map.insert("absent.weight".into(), json!("2.safetensors"))),
                vec!["2.safetensors", "absent.weight is missing"],
            ),
            (
                "a tensor in two shards",
                sound().write_shards(1, |_| ()),
                vec!["2.safetensors: tensor", "1.safetensors as well"],
            ),
            ("a shard above the folder", naming("../2.safetensors"), vec![INDEX, Q1, "beside the index"]),
            ("a shard anywhere", naming("/etc/passwd"), vec![INDEX, Q1, "beside the index"]),
            ("a shard below the folder", naming("x/2.safetensors"), vec![INDEX, Q1, "beside the index"]),
            (
                "a shard that is no name",
                index(&|map| _ = map.insert(Q1.into(), json!(2))),
                vec![INDEX, Q1, "beside the index", "found 2"],
            ),
            (
                "an index without a map",
                index(&|_| ()).file(INDEX, "{}"),
                vec![INDEX, "weight_map", "nothing"],
            ),
            ("an index that is a list", index(&|_| ()).file(INDEX, "[]"), vec![INDEX, "not JSON"]),
            (
                "broken generation defaults",
                sound().write().file("generation_config.json", "{"),
                vec!["generation_config.json", "not JSON"],
            ),
        ]
    });
}

#[test]
fn paths_that_lead_nowhere() {
    let file = Folder::new().file("model", "x");
    for (path, what) in [(file.path().join("model"), "a file"), (file.path().join("absent"), "nothing")] {
        let error = open(Source::dir(&path), WeightFormat::Stored).expect_err(what).to_string();
        assert!(error.contains("no such file") && error.contains(CONFIG), "{what}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_and_to_nothing() {
    use std::os::unix::fs::symlink;
    let looped = |name: &str| {
        let folder = sound().write().without(name);
        symlink(folder.path().join(name), folder.path().join(name)).expect("links");
        folder
    };
    let dangling = sound().write().without(MODEL);
    symlink("/nonexistent/model", dangling.path().join(MODEL)).expect("links");
    are_refused(|| {
        vec![
            ("a config in a circle", looped(CONFIG), vec![CONFIG, "no such file"]),
            ("tensors in a circle", looped(MODEL), vec![MODEL, "no such file"]),
            ("a link to nothing", dangling, vec![MODEL, "no such file"]),
        ]
    });
}

/// A file that opens and gives no bytes, whoever asks: a process's own memory, from address 0 on.
#[cfg(target_os = "linux")]
#[test]
fn files_that_cannot_be_read() {
    let unreadable = |name: &str| {
        let folder = sound().write().without(name);
        std::os::unix::fs::symlink("/proc/self/mem", folder.path().join(name)).expect("a link");
        folder
    };
    are_refused(|| {
        vec![
            ("a config that cannot be read", unreadable(CONFIG), vec![CONFIG]),
            ("tensors that cannot be read", unreadable(MODEL), vec![MODEL]),
        ]
    });
}
