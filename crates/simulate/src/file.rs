//! TOML with variants: a file's table `variants` has, by name, what a variant changes of the rest. Whatever is refused is
//! named by file and field.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::error::SettingsError;

/// A file that was read, with one of its variants put in.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// The file's name, and the variant's.
    pub label: String,
    pub table: Table,
}

impl File {
    /// All of a file: itself first, then its variants with their names.
    pub fn read(name: &str, text: &str) -> Result<Vec<(Option<String>, Self)>, SettingsError> {
        let mut base = table(name, text)?;
        let variants = match base.remove("variants") {
            None => Table::new(),
            Some(Value::Table(variants)) => variants,
            Some(other) => {
                let reason = format!("{}, expected a table of variants", other.type_str());
                return Err(field(name, "variants", reason));
            }
        };
        let mut all = vec![(None, Self { label: name.to_owned(), table: base.clone() })];
        for (variant, changes) in variants {
            let label = format!("{name}, variant {variant}");
            let Value::Table(changes) = changes else {
                return Err(field(&label, "variants", "expected a table of what is changed".to_owned()));
            };
            let mut table = base.clone();
            merge(&mut table, changes);
            all.push((Some(variant), Self { label, table }));
        }
        Ok(all)
    }

    /// A file that has no variants.
    pub fn whole(name: &str, text: &str) -> Result<Self, SettingsError> {
        Ok(Self { label: name.to_owned(), table: table(name, text)? })
    }

    /// The same with some fields changed, which are given as TOML.
    pub fn with(&self, changes: &str) -> Result<Self, SettingsError> {
        let label = format!("{}, changed", self.label);
        let mut changed = Self { table: self.table.clone(), label };
        merge(&mut changed.table, table("changes", changes)?);
        Ok(changed)
    }

    /// All of it as a type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        self.parse_part("", self.table.clone())
    }

    /// A table of it, which is in the tables of `path`, as a type.
    pub fn parse_part<T: DeserializeOwned>(&self, path: &str, part: Table) -> Result<T, SettingsError> {
        serde_path_to_error::deserialize(part).map_err(|error| {
            let (inner, dot) = (error.path().to_string(), if path.is_empty() { "" } else { "." });
            // A fault of the table itself, as a field that is missing, has no path within it.
            let place = match inner.as_str() {
                "." | "" => path.to_owned(),
                inner => format!("{path}{dot}{inner}"),
            };
            field(&self.label, &place, error.inner().message().to_owned())
        })
    }

    /// A field that is refused.
    pub fn refuse(&self, place: &str, reason: String) -> SettingsError {
        field(&self.label, place, reason)
    }
}

fn table(file: &str, text: &str) -> Result<Table, SettingsError> {
    text.parse::<Table>()
        .map_err(|error| SettingsError::Syntax { file: file.to_owned(), reason: error.to_string() })
}

fn field(file: &str, place: &str, reason: String) -> SettingsError {
    SettingsError::Field { file: file.to_owned(), field: place.to_owned(), reason }
}

/// Puts changes into a table: tables into tables, all else in place of what was there.
fn merge(table: &mut Table, changes: Table) {
    for (key, change) in changes {
        match (table.get_mut(&key), change) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, change) => {
                table.insert(key, change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_changes_what_it_names_and_nothing_else() {
        let text = "a = 1\n[b]\nc = 2\nd = [3]\n[variants.other.b]\nd = [4, 5]\n";
        let all = File::read("x.toml", text).unwrap();
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_deref()).collect();
        assert_eq!(names, [None, Some("other")]);
        assert_eq!(all[0].1.table, "a = 1\n[b]\nc = 2\nd = [3]".parse::<Table>().unwrap());
        assert_eq!(all[1].1.table, "a = 1\n[b]\nc = 2\nd = [4, 5]".parse::<Table>().unwrap());
        let changed = all[1].1.with("a = 7").unwrap();
        assert_eq!(changed.table, "a = 7\n[b]\nc = 2\nd = [4, 5]".parse::<Table>().unwrap());
    }

    #[test]
    fn what_is_not_toml_or_no_table_is_refused() {
        assert!(matches!(File::read("x", "a = = 1"), Err(SettingsError::Syntax { .. })));
        assert!(matches!(File::read("x", "variants = 1"), Err(SettingsError::Field { .. })));
        assert!(matches!(File::read("x", "[variants]\na = 1"), Err(SettingsError::Field { .. })));
    }
}
