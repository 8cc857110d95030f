//! What happens on a device, as a workload tells it.

use crate::text::{self, Segment};

/// Something that happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, in seconds from the start.
    pub at: f64,
    /// What.
    pub what: What,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// An app asks for an answer.
    Request(Request),
    /// An app comes to the foreground, leaves it or ends. In a workload with such events an app of which nothing was said
    /// is not running; in one without them every app counts as in the foreground.
    AppState {
        /// The app.
        app: u32,
        /// What it is now.
        state: AppState,
    },
    /// No later request goes on with this context, and its app says so. An answer to the last one may still be under way.
    Forget {
        /// The context.
        context: u32,
    },
}

/// What an app is to its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppState {
    /// In use.
    Foreground,
    /// Running, and not in use.
    Background,
    /// Gone. What it stored may be kept.
    Killed,
}

/// A request. A context's next one has this one's prompt and answer at the start of its prompt, and can only be served
/// when this one is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The app that asks.
    pub app: u32,
    /// The conversation that it belongs to; never used again after another had taken its place.
    pub context: u32,
    /// The adapter that answers, by its place in [`Workload::adapters`](crate::Workload::adapters); `None` for the base.
    pub adapter: Option<u32>,
    /// The whole prompt, with what was said before.
    pub prompt: Vec<Segment>,
    /// The answer: as many tokens are generated, and these are what the context goes on with.
    pub answer: Segment,
}

impl Request {
    /// Tokens of the prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> u64 {
        text::length(&self.prompt)
    }
}
