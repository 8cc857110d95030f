//! Many things that are alike, as one line: the same in many layers.

use std::collections::HashMap;
use std::hash::Hash;

/// Items by key, keys and items in the order in which they first appear.
pub fn group<K: Hash + Eq + Clone, T>(items: impl IntoIterator<Item = (K, T)>) -> Vec<(K, Vec<T>)> {
    let mut places = HashMap::new();
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    for (key, item) in items {
        let place = *places.entry(key.clone()).or_insert_with(|| {
            groups.push((key, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(item);
    }
    groups
}

/// A path's layer, if it has one, and what is before and after it: the first part that is a number.
pub fn split_layer(path: &str) -> Option<(&str, usize, &str)> {
    let mut start = 0;
    for part in path.split('.') {
        let end = start + part.len();
        if let Ok(layer) = part.parse()
            && start > 0
            && end < path.len()
        {
            return Some((&path[..start - 1], layer, &path[end + 1..]));
        }
        start = end + 1;
    }
    None
}

/// `0–3, 5`: numbers in whatever order.
pub fn ranges(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut numbers: Vec<usize> = numbers.into_iter().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match *run {
        [first, .., last] => format!("{first}–{last}"),
        [one] => one.to_string(),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_numbers_are_ranges() {
        assert_eq!(ranges([3, 1, 2, 0, 7, 5, 5]), "0–3, 5, 7");
        assert_eq!((ranges([]), ranges([4])), (String::new(), "4".into()));
    }

    #[test]
    fn layers_are_found_in_paths() {
        assert_eq!(split_layer("model.layers.12.mlp.up_proj"), Some(("model.layers", 12, "mlp.up_proj")));
        assert_eq!(split_layer("a.1.2.b"), Some(("a", 1, "2.b")));
        for path in ["lm_head", "", "model.layers.3", "7.x", "a..b", "a.99999999999999999999.b", "é.ü"] {
            assert_eq!(split_layer(path), None, "{path}");
        }
    }

    #[test]
    fn groups_keep_their_order() {
        let groups = group([("b", 1), ("a", 2), ("b", 3)]);
        assert_eq!(groups, [("b", vec![1, 3]), ("a", vec![2])]);
    }
}
