//! What can be said to `interleaf service`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{ModelArgs, RunArgs, context};

/// Options of `service`.
#[derive(Debug, ClapArgs)]
pub struct ServiceArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Carry out the commands of FILE, one a line, and end, with code 2 at the first that fails; lines that begin with # are
    /// remarks [default: what is typed, or piped in]
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// The longest answer of calls that do not say, in tokens.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_tokens: usize,
    /// Tokens that a context may have, at least 16, as far as the model allows.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = context)]
    pub context: usize,
    /// The pool of KV pages has room for so many contexts of full length.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub pool: u64,
    /// Put what calls with a drift budget leave to rest in idle time, of adapters that `interleaf calibrate` has looked at.
    #[arg(long)]
    pub at_rest: bool,
    /// Open a router, by which `adapter auto` chooses: FILE, or the one that the store keeps for this model.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "the option, and its value")]
    pub router: Option<Option<PathBuf>>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub run: RunArgs,
}
