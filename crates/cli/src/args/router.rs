//! Options of `interleaf router`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use interleaf_calibrate::SCORED;

use super::{NamedFolder, StoreArgs, named_folder};

/// What to do with a router.
#[derive(Debug, Clone, Subcommand)]
pub enum RouterCommand {
    /// Fit a router to labelled prompts, and keep it for that model.
    Train(RouterTrainArgs),
    /// Measure a router on labelled prompts that it was not fitted to, beside simpler ways of choosing.
    Eval(RouterEvalArgs),
}

/// Which model, and by what prompts.
#[derive(Debug, Clone, Args)]
pub struct RouterDataArgs {
    /// A Hugging Face model folder [default: the embedded demo model and its adapters]
    #[arg(long, value_name = "DIR", requires = "data")]
    pub model: Option<PathBuf>,
    /// A PEFT adapter folder and the name that prompts call it by: the router is then for that very adapter, whatever it is called;
    /// may be repeated.
    #[arg(long = "adapter", value_name = "NAME=DIR", value_parser = named_folder)]
    pub adapters: Vec<NamedFolder>,
    /// Prompts, a JSON object a line: "prompt", "adapter" or a list "adapters", and "split", "train" or "test" [default: the demo
    /// model's own]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Worker threads of the CPU [default: one per core, on machines with fast and slow ones per fast core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Print one JSON object instead.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,
}

/// Options of `router train`.
#[derive(Debug, Clone, Args)]
pub struct RouterTrainArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: RouterDataArgs,
    /// Give prompts to the model as they are, without the chat template.
    #[arg(long)]
    pub raw: bool,
    /// How many tokens of a prompt the router looks at, the first ones.
    #[arg(long, value_name = "N", default_value_t = SCORED, value_parser = scored)]
    pub tokens: usize,
    /// Where the router is written to [default: the store]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Options of `router eval`.
#[derive(Debug, Clone, Args)]
pub struct RouterEvalArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: RouterDataArgs,
    /// The router [default: the one that the store keeps for the model]
    #[arg(long, value_name = "FILE")]
    pub router: Option<PathBuf>,
}

fn scored(text: &str) -> Result<usize, String> {
    let most = interleaf_runtime::MOST_SCORED;
    let tokens = text.parse().ok().filter(|tokens| (1..=most).contains(tokens));
    tokens.ok_or_else(|| format!("expected a number of tokens from 1 to {most}"))
}
