//! Which adapter answers: what a caller may ask for, what a router says to it, and the rule of choosing. No engine.

use crate::EngineError;

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AdapterChoice {
    /// The base model.
    #[default]
    Base,
    /// The adapter of a name.
    Named(String),
    /// Whichever the router finds to suit the prompt ([`Engine::open_router`](crate::Engine::open_router)): of the `k` likeliest
    /// the first that is resident, else the likeliest. It looks at the first tokens of all that is read, so that a context that
    /// goes on stays with the adapter that suited its beginning, and with that one's cache.
    Auto {
        /// From how many, at least 1; 1 for the likeliest whether it is resident or not.
        k: usize,
    },
}

impl AdapterChoice {
    /// The name, if one was named.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Base | Self::Auto { .. } => None,
        }
    }

    /// Whether it can be asked for.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        match self {
            Self::Auto { k } => check(*k),
            Self::Base | Self::Named(_) => Ok(()),
        }
    }
}

impl From<&str> for AdapterChoice {
    fn from(name: &str) -> Self {
        Self::Named(name.into())
    }
}

impl From<String> for AdapterChoice {
    fn from(name: String) -> Self {
        Self::Named(name)
    }
}

impl<T: Into<Self>> From<Option<T>> for AdapterChoice {
    /// `None` is the base model.
    fn from(name: Option<T>) -> Self {
        name.map_or(Self::Base, Into::into)
    }
}

/// What a router says of one adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterScore {
    /// What it was called when the router was trained.
    pub label: String,
    /// How likely it suits the prompt, from 0 to 1; those of several adapters do not add up to 1.
    pub probability: f32,
    /// The name that it is registered under; `None` for one that is not, or not with the contents that the router was trained
    /// for: that is passed over.
    pub adapter: Option<String>,
    /// Whether it is where it can be computed with, and need not be loaded.
    pub is_resident: bool,
}

/// How an adapter was chosen for a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Routed {
    /// The adapter; `None` for the base, where none that the router knows is registered.
    pub adapter: Option<String>,
    /// All that the router knows, the likeliest first.
    pub scores: Vec<AdapterScore>,
    /// Tokens of the prompt that it looked at, the first ones. Their pages are in the cache under the base, for as long as there
    /// is room; [`Completion::reused_tokens`](crate::Completion::reused_tokens) says how many tokens an answer went on from.
    pub scored_tokens: usize,
    /// How many of them were computed for that: none where the same were scored before.
    pub computed_tokens: usize,
}

/// A choice is from at least one.
pub fn check(k: usize) -> Result<(), EngineError> {
    if k > 0 {
        return Ok(());
    }
    Err(EngineError::InvalidOption { option: "k", expected: "at least 1", found: "0".into() })
}

/// The rule (EdgeLoRA, its algorithm for adaptive adapter selection): of the `k` likeliest that are registered the first that is
/// resident, else the likeliest. `scores` are in descending order.
pub fn select(scores: &[AdapterScore], k: usize) -> Option<&str> {
    let registered = || scores.iter().filter(|score| score.adapter.is_some());
    let resident = registered().take(k).find(|score| score.is_resident);
    resident.or_else(|| registered().next())?.adapter.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores in descending order: whether each is registered, and resident.
    fn scores(places: &[(&str, bool, bool)]) -> Vec<AdapterScore> {
        let score = |&(name, is_registered, is_resident): &(&str, bool, bool)| AdapterScore {
            label: name.into(),
            probability: 0.5,
            adapter: is_registered.then(|| name.into()),
            is_resident,
        };
        places.iter().map(score).collect()
    }

    #[test]
    fn the_first_resident_of_the_likeliest_is_chosen() {
        let scores = scores(&[("a", true, false), ("b", true, true), ("c", true, true), ("d", true, false)]);
        assert_eq!(select(&scores, 1), Some("a"), "the likeliest has to be loaded");
        assert_eq!(select(&scores, 2), Some("b"));
        assert_eq!(select(&scores, 9), Some("b"));
        assert_eq!(select(&scores[2..], 1), Some("c"));
    }

    #[test]
    fn where_none_is_resident_the_likeliest_is_loaded() {
        let scores = scores(&[("a", true, false), ("b", true, false), ("c", true, true)]);
        assert_eq!(select(&scores, 2), Some("a"));
        assert_eq!(select(&scores, 3), Some("c"));
    }

    #[test]
    fn who_is_not_registered_is_passed_over_and_takes_no_place() {
        let some = scores(&[("x", false, false), ("a", true, false), ("y", false, false), ("b", true, true)]);
        assert_eq!(select(&some, 1), Some("a"));
        assert_eq!(select(&some, 2), Some("b"));
        assert_eq!(select(&some[..1], 4), None, "the base");
        assert_eq!(select(&[], 4), None);
    }

    #[test]
    fn names_are_choices() {
        assert_eq!(AdapterChoice::from("a"), AdapterChoice::Named("a".into()));
        assert_eq!(AdapterChoice::from(Some("a".to_owned())), AdapterChoice::Named("a".into()));
        assert_eq!(AdapterChoice::from(None::<&str>), AdapterChoice::default());
        assert!(
            AdapterChoice::Auto { k: 0 }.check().is_err() && AdapterChoice::Auto { k: 1 }.check().is_ok()
        );
    }
}
