//! Everything that can be wrong with a model or an adapter, as one typed error.
//!
//! `file` is always where the fault is, as [`Source::describe`](crate::Source::describe) names it.

use std::io;

use interleaf_contract::{ContractError, Dtype};

/// Why a model, an adapter, a tokenizer or a template was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file is not there.
    #[error("{file}: no such file")]
    MissingFile {
        /// The file.
        file: String,
    },
    /// Only pickled weights are there, which can run code when they are read.
    #[error("{file}: a pickle is not read, because it can run code; {needed} is needed (safetensors)")]
    Pickle {
        /// The pickle that was found.
        file: String,
        /// The file that was looked for.
        needed: &'static str,
    },
    /// A file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A text file is larger than any that a model comes with.
    #[error("{file}: {found} bytes, expected at most {limit}")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size in bytes.
        found: u64,
        /// The largest size in bytes that is read.
        limit: u64,
    },
    /// A text file is not UTF-8.
    #[error("{file}: not UTF-8 from byte {valid}")]
    NotUtf8 {
        /// The file.
        file: String,
        /// Bytes that are.
        valid: usize,
    },
    /// A file is not JSON.
    #[error("{file}: not JSON: {source}")]
    Json {
        /// The file.
        file: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field is missing, of the wrong type, out of range, or contradicts another one.
    #[error("{file}: {field} must be {expected}, found {found}")]
    Field {
        /// The file.
        file: String,
        /// The field, with the objects around it: `rope_scaling.factor`.
        field: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A field asks for something that this engine does not do.
    #[error("{file}: {field} is {value}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The file.
        file: String,
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// The values that are.
        supported: String,
    },
    /// A safetensors file is damaged.
    #[error("{file}: {reason}")]
    Safetensors {
        /// The file.
        file: String,
        /// What is wrong with its header or its length.
        reason: String,
    },
    /// A tensor that should be there is not.
    #[error("{file}: tensor {tensor} is missing")]
    MissingTensor {
        /// The file, or the index of the shards.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor is in two files.
    #[error("{second}: tensor {tensor} is in {first} as well")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// The file it was found in first.
        first: String,
        /// The file it was found in again.
        second: String,
    },
    /// A tensor does not have the shape that the config calls for.
    #[error("{file}: tensor {tensor} is {found:?}, expected {expected:?}")]
    TensorShape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape by the config, or by the base model.
        expected: Vec<usize>,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor's elements are of a type that weights are not read from.
    #[error("{file}: tensor {tensor} is {found}, expected F32, F16 or BF16")]
    TensorDtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its element type, as safetensors calls it.
        found: String,
    },
    /// A tensor holds an infinity or a NaN where only numbers make sense.
    #[error("{file}: tensor {tensor} has the value {value} at element {index}, which is not finite")]
    NonFinite {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Index of the element, row-major.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A weight, or the scale of its block, does not fit the format that was asked for.
    #[error("{file}: tensor {tensor}, row {row}: magnitude {magnitude} is too large for {format}")]
    Overflow {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The row.
        row: usize,
        /// The magnitude of the weight.
        magnitude: f32,
        /// The format that was asked for.
        format: Dtype,
    },
    /// A tensor that cannot be used, such as an adapter's for a module that the base does not have.
    #[error("{file}: tensor {tensor}: {reason}")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Why not.
        reason: String,
    },
    /// An adapter's factor has another rank than its config says, so that its scale would be wrong.
    #[error("{file}: tensor {tensor} has rank {found}, but {field} in adapter_config.json is {expected}")]
    AdapterRank {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its rank.
        found: usize,
        /// `r`, or the entry of `rank_pattern` that matched.
        field: String,
        /// The rank in the config.
        expected: usize,
    },
    /// A layer was asked for that the model does not have.
    #[error("{file}: layer {layer} is out of range: the model has {layers} layers")]
    NoSuchLayer {
        /// The config.
        file: String,
        /// The layer.
        layer: usize,
        /// How many there are.
        layers: usize,
    },
    /// The tokenizer cannot be built, or cannot encode or decode.
    #[error("{file}: tokenizer: {reason}")]
    Tokenizer {
        /// The file.
        file: String,
        /// What the tokenizer said.
        reason: String,
    },
    /// A tokenizer makes tokens that the embedding has no row for.
    #[error("{file}: token {token:?} is number {id}, but the embedding has {rows} rows")]
    Vocabulary {
        /// The file.
        file: String,
        /// The token with the largest number.
        token: String,
        /// That number.
        id: u32,
        /// Rows of the embedding: numbers below it can be embedded.
        rows: usize,
    },
    /// The chat template cannot be parsed, or refused the conversation.
    #[error("{file}: chat template: {reason}")]
    Template {
        /// The file.
        file: String,
        /// What the template engine, or the template by `raise_exception`, said.
        reason: String,
    },
    /// A matrix that contradicts itself.
    #[error("{file}: {source}")]
    Matrix {
        /// The file.
        file: String,
        /// The contradiction.
        source: ContractError,
    },
}
