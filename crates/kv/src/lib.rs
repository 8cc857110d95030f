//! The KV manager: decides which chunk of which sequence lives in which slot of the page pool. It never
//! touches a device, a file, a thread or a clock.
//!
//! This is the plain form: every sequence owns its chunks, and a pool that is full refuses. Sequences
//! share no pages, nothing is evicted and nothing is compressed; kernels already read pages through
//! [`PageTable`](interleaf_contract::PageTable), the interface that sharing and codecs will use. What will
//! replace it is here in parts: [`Blocks`], which any page and adapters share, [`policy`] by which they are evicted, and
//! [`plan_switch`] by which a context comes back.

mod blocks;
mod cache;
pub mod policy;
mod slots;
mod switch;

pub use blocks::{Blocks, Piece};
pub use cache::{KvCache, KvError, SequenceId};
pub use switch::{LinearCost, SwitchCosts, SwitchPlan, plan_switch};
