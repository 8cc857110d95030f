//! What a kernel is given and must return: dtypes and quantised block layouts, page layouts and
//! codecs, batches of rows with their adapters, the [`Step`] a forward pass is recorded into, and the
//! [`Backend`] that carries it out.
//!
//! This crate describes and never computes. The definition of each kernel is in `kernels-ref`; the
//! crates `cpu` and `gpu` are held to it.

#[cfg(target_endian = "big")]
compile_error!("weights and pages are stored little-endian and are read in place");

mod arrival;
mod backend;
mod batch;
mod chain;
pub mod check;
mod codec;
mod dtype;
mod error;
pub mod host;
mod lora;
mod page;
mod page_move;
mod page_table;
mod peaks;
mod projections;
mod sampling;
mod step;
mod waiter;
mod weights;
mod work;

pub use arrival::{Arrival, ArrivingPages};
pub use backend::{Backend, BackendInfo, MemoryReport, Numerics, PageTicket, Ticket};
pub use batch::{Batch, Output, Row, RowKind, Sequence};
pub use bytes::Bytes;
pub use chain::{Chained, Choices};
pub use codec::{
    Bits, CodeLayout, CoefficientLayout, Coefficients, ConstantRows, ConstantsId, GROUP_CHANNELS, JointCodec,
    PAGE_UNIT, PageCodec, PageConstants, Width,
};
pub use dtype::{BlockQ4_0, BlockQ8_0, Dtype, QUANT_BLOCK};
pub use error::{BackendError, ContractError};
pub use lora::{Adapter, AdapterId, LoraSite};
pub use page::{ATTENTION_SPLIT, CHUNK_TOKENS, PageElement, PoolGeometry};
pub use page_move::{PageAddress, PageCopy, PageData, PageHalf, PageLoss, PageRecode};
pub use page_table::{Bands, ChunkEntry, PageEntry, PagePlace, PageTable};
pub use peaks::DevicePeaks;
pub use projections::{Projections, Unused};
pub use sampling::Sampler;
pub use step::{
    Activation, AttentionShape, MassSample, Op, ProbeId, RowSet, Sampled, Step, StepOutput, Tensor,
};
pub use waiter::Waiter;
pub use weights::{Matrix, MatrixId, Projection, ProjectionId, RopeId, RopeTable, VectorId};
pub use work::{DeviceWork, KernelWork};
