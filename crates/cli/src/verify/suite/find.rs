//! Finds golden sets and the models that they are of.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::super::golden;
use crate::CliError;

/// A golden set.
#[derive(Debug, PartialEq, Eq)]
pub struct Set {
    /// Its folder, from that of the suite.
    pub name: String,
    /// The model's folder.
    pub model: PathBuf,
    /// The vectors' folder.
    pub golden: PathBuf,
}

/// Every golden set in a folder or below it, by name.
pub fn sets(folder: &Path) -> Result<Vec<Set>, CliError> {
    let mut sets = Vec::new();
    walk(folder, folder, &mut HashSet::new(), &mut sets)?;
    if sets.is_empty() {
        let reason = "there is no folder with golden/ and a model in it or below".to_owned();
        return Err(CliError::File { path: folder.to_owned(), reason });
    }
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sets)
}

fn walk(top: &Path, folder: &Path, seen: &mut HashSet<PathBuf>, sets: &mut Vec<Set>) -> Result<(), CliError> {
    let refuse = |e: std::io::Error| CliError::File { path: folder.to_owned(), reason: e.to_string() };
    // Links are followed, once: they may lead back up.
    if !seen.insert(folder.canonicalize().map_err(refuse)?) {
        return Ok(());
    }
    let golden = folder.join("golden");
    if golden::is_one(&golden) {
        let name = folder.strip_prefix(top).unwrap_or(folder).display().to_string();
        let name = if name.is_empty() { ".".into() } else { name };
        sets.push(Set { name, model: model(folder, &golden)?, golden });
    }
    for entry in folder.read_dir().map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        if path.is_dir() {
            walk(top, &path, seen, sets)?;
        }
    }
    Ok(())
}

/// The model beside a set of golden vectors: in the set's own folder, or in its folder `base` or, where the vectors are of
/// an adapter alone, in the folder beside it that they name.
fn model(folder: &Path, golden: &Path) -> Result<PathBuf, CliError> {
    let is_model = |folder: &PathBuf| folder.join("config.json").is_file();
    let own = [folder.to_owned(), folder.join("base")].into_iter().find(is_model);
    if let Some(own) = own {
        return Ok(own);
    }
    // From an absolute path: `.` has a folder beside it, too.
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let named = golden::base(golden)?.and_then(|base| Some(absolute.parent()?.join(base)));
    named.filter(is_model).ok_or_else(|| {
        let reason =
            "has golden/ but no config.json here or in base/, and golden.json names no base beside it"
                .to_owned();
        CliError::File { path: folder.to_owned(), reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, file: &str, text: &str) {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn sets_are_found_with_their_models() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        assert!(sets(top).unwrap_err().to_string().contains("golden/"));
        write(top, "b/config.json", "{}");
        write(top, "b/golden/golden.json", "{}");
        write(top, "a/deep/config.json", "{}");
        write(top, "a/deep/golden/index.json", "{}");
        write(top, "b-adapter/golden/golden.json", r#"{"base": "b"}"#);
        write(top, "c/base/config.json", "{}");
        write(top, "c/golden/index.json", "{}");
        write(top, "no-vectors/config.json", "{}");
        write(top, "no-vectors/golden/notes.txt", "");
        #[cfg(unix)]
        std::os::unix::fs::symlink(top, top.join("a/up")).unwrap();
        let found = sets(top).unwrap();
        let names: Vec<&str> = found.iter().map(|set| &*set.name).collect();
        assert_eq!(names, ["a/deep", "b", "b-adapter", "c"]);
        assert_eq!(found[3].model, top.join("c/base"));
        assert_eq!(found[1].model.canonicalize().unwrap(), found[2].model.canonicalize().unwrap());
        assert_eq!(sets(&top.join("b")).unwrap()[0].name, ".");
    }

    #[test]
    fn vectors_of_no_model_are_refused() {
        for base in ["{}", r#"{"base": "b"}"#, r#"{"base": "../b"}"#, "[]", "{"] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), "a/golden/golden.json", base);
            let refused = sets(folder.path()).unwrap_err().to_string();
            assert!(refused.contains("golden.json"), "{refused}");
        }
    }
}
