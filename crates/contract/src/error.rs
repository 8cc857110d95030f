//! The typed errors of descriptions and of backends.

use crate::{Dtype, PageAddress, PageCodec, PageHalf};

/// A description that contradicts itself.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ContractError {
    /// The bytes of a matrix are not what its shape and dtype need.
    #[error("{name}: {rows} × {cols} {dtype} needs {expected} bytes, found {found}")]
    MatrixBytes {
        /// The matrix.
        name: String,
        /// Its rows (outputs).
        rows: usize,
        /// Its columns (inputs).
        cols: usize,
        /// Its element type.
        dtype: Dtype,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes that were given.
        found: usize,
    },
    /// A row does not fill whole quantised blocks.
    #[error("{name}: a row of {cols} elements does not fill whole {dtype} blocks of {}", .dtype.block_len())]
    PartialBlock {
        /// The matrix.
        name: String,
        /// Its columns.
        cols: usize,
        /// Its element type.
        dtype: Dtype,
    },
    /// The bytes of a matrix cannot be viewed as its elements.
    #[error("{name}: {dtype} elements need an alignment of {} bytes", .dtype.alignment())]
    Misaligned {
        /// The matrix.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// LoRA factors that do not fit each other or their projection.
    #[error("{name}: {what} is {found}, expected {expected}")]
    LoraShape {
        /// The LoRA factor.
        name: String,
        /// Which dimension.
        what: &'static str,
        /// What the projection or the other factor asks for.
        expected: usize,
        /// What the factor has.
        found: usize,
    },
    /// LoRA factors are kept in f16 or f32, unquantised.
    #[error("{name}: a LoRA factor is f16 or f32, not {dtype}")]
    LoraDtype {
        /// The LoRA factor.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// A projection is to be dropped where an adapter attaches.
    #[error("projection {projection} cannot be dropped: adapter {adapter} attaches to it")]
    Adapted {
        /// The projection's handle.
        projection: u32,
        /// The adapter's.
        adapter: u32,
    },
    /// A batch or step names something that is not there.
    #[error("{what} {index} is out of range: there are {len}")]
    OutOfRange {
        /// What is indexed.
        what: &'static str,
        /// The index.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// A row is chained to an output for which the step before chooses no token.
    #[error("no token to chain to: the step before chooses none for output {output}")]
    NothingChosen {
        /// The output.
        output: u32,
    },
    /// A page is to be copied to another layer, or to one of another length.
    #[error("{from} cannot be copied to {to}: a copy stays in its layer and is as long")]
    CopyAcross {
        /// What is copied.
        from: PageAddress,
        /// Where to.
        to: PageAddress,
    },
    /// Copies of one call whose result would depend on their order.
    #[error("{page} is written by one copy and read or written by another of the same call")]
    CopyOverlap {
        /// What is written.
        page: PageAddress,
    },
    /// A page in a codec that there is none of, of its half or with its rank.
    #[error("there are no pages of {half:?} in {codec}")]
    NoSuchCodec {
        /// The codec.
        codec: PageCodec,
        /// K or V.
        half: PageHalf,
    },
    /// A page without the anchor it is decoded over, with one that does not stand alone, or with one that it does not need.
    #[error("a page in {codec} must have {expected}, found {found}")]
    Anchor {
        /// The page's codec.
        codec: PageCodec,
        /// What it needs.
        expected: &'static str,
        /// What it has.
        found: String,
    },
    /// A page without the constants it is decoded with, or with some that it does not need.
    #[error("a page in {codec} must have {expected}")]
    Constants {
        /// The page's codec.
        codec: PageCodec,
        /// What it needs.
        expected: &'static str,
    },
    /// An operation was given tensors that do not fit.
    #[error("{op}: {what} is {found}, expected {expected}")]
    Shape {
        /// The operation's stem.
        op: &'static str,
        /// Which dimension.
        what: &'static str,
        /// What the operation needs.
        expected: usize,
        /// What it was given.
        found: usize,
    },
    /// A value is outside what the operation is defined on.
    #[error("{op}: {what} must be {expected}, found {found}")]
    Value {
        /// The operation's stem.
        op: &'static str,
        /// Which value.
        what: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
}

/// What a [`Backend`](crate::Backend) can refuse or fail with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The description itself is wrong.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// A handle that this backend never gave out, or has dropped.
    #[error("{backend}: no {kind} with handle {handle}")]
    UnknownHandle {
        /// The backend.
        backend: &'static str,
        /// What the handle should name.
        kind: &'static str,
        /// Its number.
        handle: u64,
    },
    /// The backend has no kernel for this.
    #[error("{backend}: {what} is not supported")]
    Unsupported {
        /// The backend.
        backend: &'static str,
        /// What was asked.
        what: String,
    },
    /// Pages in a codec that is not for what they are used as.
    #[error("{backend}: pages that are {used} are in {expected}, not in {found}")]
    PageCodec {
        /// The backend.
        backend: &'static str,
        /// What is done with them.
        used: &'static str,
        /// What they may be stored in.
        expected: String,
        /// What the page is stored in.
        found: PageCodec,
    },
    /// The device or the host has no room.
    #[error("{backend}: {what} needs {bytes} bytes, which cannot be had: {reason}")]
    OutOfMemory {
        /// The backend.
        backend: &'static str,
        /// What was to be allocated.
        what: String,
        /// How much.
        bytes: u64,
        /// What the allocator or driver said.
        reason: String,
    },
    /// The device is gone, with everything on it: a reset, a driver that crashed, a system that took it back.
    #[error("{backend}: {reason}")]
    DeviceLost {
        /// The backend.
        backend: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// The device or its driver failed.
    #[error("{backend}: {reason}")]
    Device {
        /// The backend.
        backend: &'static str,
        /// What the driver said.
        reason: String,
    },
}
