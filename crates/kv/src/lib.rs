//! The KV manager: decides which chunk of which sequence lives in which slot of the page pool. It never
//! touches a device, a file, a thread or a clock.
//!
//! This is the plain form: every sequence owns its chunks, and a pool that is full refuses. Sequences
//! share no pages, nothing is evicted and nothing is compressed; kernels already read pages through
//! [`PageTable`](interleaf_contract::PageTable), the interface that sharing and codecs will use.

mod cache;
mod slots;

pub use cache::{KvCache, KvError, SequenceId};
