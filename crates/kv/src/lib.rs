//! The KV manager: decides which chunk of which context lives where, what goes when there is no room, and what comes back
//! how. It never touches a device, a file, a thread or a clock: events go in, plans come out, and whoever carries them out
//! reports how that ended. So the same code serves the engine, property tests and a simulator.
//!
//! [`Manager`] is the state machine; [`policy`] has what it goes by when something must go; [`plan_switch`] how a context
//! comes back.

mod attention;
mod blocks;
mod children;
mod error;
mod form;
mod heap;
mod identity;
mod lossless;
mod manager;
mod node;
mod numbers;
mod op;
pub mod policy;
mod sequence;
mod switch;
mod tier;
mod tolerance;

pub use error::KvError;
pub use form::{FirstTouch, Form, LayerForm, Layers, Over, PageForm, Source, Translation, TranslationWay};
pub use identity::{AdapterId, AdapterKey, AppId, ChunkKey, ContentDigest, ModelKey, Salt, SequenceId};
pub use lossless::shared_layers;
pub use manager::{
    AdapterSpec, Config, KeySet, MOST_APPS, MOST_SEQUENCES, Manager, Open, Opened, Rest, StoredAt,
    StoredChunk, StoredId, StoredPage, TrimLevel, Usage,
};
pub use node::MOST_FORMS;
pub use op::{Op, OpId, OpKind};
pub use switch::{LinearCost, Missing, SwitchCosts, SwitchPlan, plan_switch};
pub use tier::{RankRows, TierConfig};
pub use tolerance::{Graded, Tolerance, ToleranceError, Width, Widths, choose_widths};
