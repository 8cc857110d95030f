//! Options of `interleaf calibrate` and `interleaf quality`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use interleaf_calibrate::{Anchor, PREFIXES};

use super::{BackendArg, StoreArgs, WeightsArg};

/// Options of `calibrate`.
#[derive(Debug, Clone, Args)]
pub struct CalibrateArgs {
    /// A Hugging Face model folder [default: the embedded demo model]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// A PEFT adapter folder, or the name of one of the demo model's [default: each of the demo model's in turn]
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// What it is calibrated on, UTF-8: at least two windows of 512 tokens, better sixteen, half of them of what the adapter
    /// was trained for [default: the demo model's windows for an adapter of that name, of models with its tokenizer; else its
    /// text of all domains]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Where the calibration is written to [default: the store]
    #[arg(long, value_name = "FILE", requires = "adapter")]
    pub output: Option<PathBuf>,
    /// Measure the machine instead: what reading swapped pages and computing them again takes, by which contexts come back
    #[arg(long, conflicts_with_all = ["adapter", "text", "output"])]
    pub device: bool,
    /// With --device: what the model runs on
    #[arg(long, value_enum, default_value_t = BackendArg::Auto, requires = "device")]
    pub backend: BackendArg,
    /// With --device: how base weights are kept
    #[arg(long, value_enum, default_value_t = WeightsArg::Stored, requires = "device")]
    pub weights: WeightsArg,
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

/// Options of `quality`.
#[derive(Debug, Clone, Args)]
pub struct QualityArgs {
    /// A Hugging Face model folder [default: the embedded demo model]
    #[arg(long, value_name = "DIR", requires = "adapters")]
    pub model: Option<PathBuf>,
    /// PEFT adapter folders, or names of the demo model's; several with commas [default: all of the demo model's]
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    pub adapters: Vec<PathBuf>,
    /// What is read, UTF-8, in windows of a prefix of 512 tokens and a continuation of 192 [default: the demo model's
    /// windows for an adapter of that name, in both settings, of models with its tokenizer]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Codecs by name, such as delta-4; several with commas [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub codecs: Vec<String>,
    /// How the base's pages are stored. Differences are taken from what they decode to. With --budgets: q8 where the budget
    /// allows it.
    #[arg(long, value_enum, default_value_t = AnchorArg::F16)]
    pub anchor: AnchorArg,
    /// The most windows of each adapter in each setting [default: all]
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    pub sequences: usize,
    /// Measure the engine instead of codecs: what it holds of one prefix for base and adapters within such drift budgets, in
    /// nats, and whether what its answers lose keeps to them; several with commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "codecs", value_parser = super::drift)]
    pub budgets: Vec<f32>,
    /// With --budgets: use no calibration
    #[arg(long, requires = "budgets", conflicts_with = "codecs")]
    pub uncalibrated: bool,
    /// With --budgets: leave time after every call, in which what is kept of it goes to rest; what it is decoded with, a map over
    /// all layers, is counted apart, since it is read from the store. Models with more than 6144 inputs and outputs of one have
    /// none, and nothing goes to rest
    #[arg(long, requires = "budgets", conflicts_with_all = ["uncalibrated", "codecs"])]
    pub at_rest: bool,
    /// Measure an adapter's first touch of a prefix that the base has in the cache instead: the base's pages as they are, or
    /// translated, with the adapter's pass over some tokens or layers, against its own prefill; and at which budgets the engine
    /// translates
    #[arg(long, conflicts_with_all = ["codecs", "budgets", "plot"])]
    pub first_touch: bool,
    /// With --first-touch: tokens of the prefix; several with commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "first_touch", default_values_t = PREFIXES)]
    pub prefixes: Vec<usize>,
    /// Measure what it costs to give each chunk of a context 8, 4 or 2 bits instead: by how much it is attended to, by its place,
    /// or at random; and how few layers and heads tell how much that is
    #[arg(long, conflicts_with_all = ["codecs", "budgets", "first_touch", "plot", "anchor"])]
    pub widths: bool,
    /// With --widths: shares of what chunks take at 8 bits, scales included, that they may take; several with commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "widths", default_values_t = [0.375, 0.5, 0.53])]
    pub ratios: Vec<f64>,
    /// With --widths: how many of the newest chunks of 16 tokens stay exact
    #[arg(long, value_name = "N", requires = "widths", default_value_t = 2)]
    pub newest: usize,
    /// Draw divergence over bytes, or with --budgets over what was estimated, as an SVG.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
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

/// `--anchor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AnchorArg {
    /// As half-precision numbers.
    F16,
    /// In 8 bits, keys by the page's channel and values by the token.
    Q8,
}

impl From<AnchorArg> for Anchor {
    fn from(arg: AnchorArg) -> Self {
        match arg {
            AnchorArg::F16 => Self::F16,
            AnchorArg::Q8 => Self::Q8,
        }
    }
}
