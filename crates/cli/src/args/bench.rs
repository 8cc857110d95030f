//! Options of `interleaf bench`, by the names of llama-bench where it has them.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, ValueEnum};
use interleaf_runtime::{EngineOptions, Shape};

use super::{BackendArg, GpuArgs, NumericsArg, PagesArg, WeightsArg};

/// Options of `bench`.
#[derive(Debug, Clone, ClapArgs)]
pub struct BenchArgs {
    /// A Hugging Face model folder [default: the embedded demo model]
    #[arg(long, value_name = "DIR", conflicts_with = "shape")]
    pub model: Option<PathBuf>,
    /// Instead of a model: generated weights of a public model's shape, with nothing to download. Its answers
    /// mean nothing; its times are the model's.
    #[arg(long, value_name = "NAME", value_parser = shapes())]
    pub shape: Option<Shape>,
    /// Tokens of a prompt, read by one sequence (rows `pp`); 0 for no such row. Lists such as 128,512 are
    /// allowed here and wherever values are said to be LISTs: every combination is a row.
    #[arg(short = 'p', long = "prompt", value_name = "LIST", value_delimiter = ',', default_value = "512")]
    pub prompt: Vec<usize>,
    /// Tokens that are generated one after the other (rows `tg`); 0 for no such row.
    #[arg(short = 'n', long = "generate", value_name = "LIST", value_delimiter = ',', default_value = "128")]
    pub generate: Vec<usize>,
    /// Times that each row is measured, after a warm-up.
    #[arg(short = 'r', long = "repetitions", value_name = "R", default_value_t = 5)]
    pub repetitions: usize,
    /// Tokens that are in the cache before the clock starts.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0")]
    pub depth: Vec<usize>,
    /// Sequences that generate side by side; a rate counts the tokens of all. A prompt is always one
    /// sequence's.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1")]
    pub batch: Vec<usize>,
    /// Different generated LoRA adapters on all linear modules of the layers, given to the sequences in turn;
    /// 0 for the base model alone.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0")]
    pub adapters: Vec<usize>,
    /// Take rows that differ in --adapters alone step by step in turn, so that what else the machine does slows all of
    /// them alike, and print each one's time as a multiple of that without adapters, which must be among them. Their
    /// contexts are held side by side.
    #[arg(long)]
    pub in_turn: bool,
    /// The adapters' rank.
    #[arg(long, value_name = "R", default_value_t = 16)]
    pub rank: usize,
    /// Worker threads of the CPU backend; 0 for one per core, on machines with fast and slow ones per fast core.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0")]
    pub threads: Vec<usize>,
    /// Use slow cores too, on a machine that has fast and slow ones.
    #[arg(long)]
    pub all_cores: bool,
    /// How base weights are kept: as the files have them, or converted while loading.
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_value = "stored")]
    pub weights: Vec<WeightsArg>,
    /// What the model runs on. `auto` takes a GPU only where `interleaf doctor` found it right and faster than the CPU.
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    pub backend: BackendArg,
    /// How KV pages are stored.
    #[arg(long, value_enum, default_value_t = PagesArg::F16)]
    pub pages: PagesArg,
    /// How quantised weights are multiplied; other weights always meet f32 activations. A GPU takes `act-q8` only where it
    /// multiplies bytes fast.
    #[arg(long, value_enum, default_value_t = NumericsArg::ActQ8)]
    pub numerics: NumericsArg,
    /// The most rows of a prompt in one step.
    #[arg(long, value_name = "ROWS", default_value_t = EngineOptions::default().prefill_rows)]
    pub prefill_rows: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub gpu: GpuArgs,

    /// Measure the time of each kernel, on a GPU by its own timestamps, on the CPU as its first worker sees it, and print it. Steps
    /// are slower meanwhile.
    #[arg(long)]
    pub profile: bool,

    /// What is printed.
    #[arg(long, value_enum, default_value_t = OutputArg::Md)]
    pub output: OutputArg,
    /// Measure between the rows what the machine reads from memory and multiplies at best, the processor with as many
    /// threads or the GPU, and say what share of it each row reaches; of a GPU also what a step takes that does nothing.
    /// Takes 1 GiB of the device's memory.
    #[arg(long)]
    pub roofline: bool,
}

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    /// A table in Markdown.
    Md,
    /// Comma-separated values with a header.
    Csv,
    /// One object: model, machine and rows.
    Json,
}

fn shapes() -> impl TypedValueParser<Value = Shape> {
    let names = PossibleValuesParser::new(Shape::ALL.map(|shape| shape.name));
    names.try_map(|name| Shape::named(&name).ok_or("not the name of a shape"))
}
