//! What can be said on the command line.

mod bench;
mod calibrate;
mod router;
mod service;
mod simulate;

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use interleaf_runtime::{
    BackendChoice, EngineOptions, FlashProfile, GpuSettings, KeyPath, Numerics, PageElement, SwapOptions,
    WeightFormat,
};

pub use bench::{BenchArgs, OutputArg};
pub use calibrate::{AnchorArg, CalibrateArgs, QualityArgs};
pub use router::{RouterCommand, RouterDataArgs, RouterEvalArgs, RouterTrainArgs};
pub use service::ServiceArgs;
pub use simulate::SimulateArgs;

/// One base model, many LoRA adapters, one mixed batch.
///
/// Without a command: the base model and its adapters answer prompts that share a system prefix, in one
/// batch, on an embedded demo model.
#[derive(Debug, Parser)]
#[command(name = "interleaf", version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The demo's options.
    #[command(flatten)]
    pub demo: DemoArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer a prompt, streaming.
    Generate(GenerateArgs),
    /// Talk to a model in the terminal, and change adapters on the way.
    Chat(ChatArgs),
    /// Serve many apps: their contexts, calls, states and memory, by commands that are typed, which `help` lists, or from a
    /// script. With --store, contexts are there again in the next run.
    Service(ServiceArgs),
    /// Compare a model and its adapters with golden vectors; exit 1 if a bound is exceeded.
    Verify(VerifyArgs),
    /// Measure the perplexity of a text.
    Perplexity(PerplexityArgs),
    /// Show what a model or an adapter is; exit 1 if it is refused.
    Inspect(InspectArgs),
    /// Measure how fast prompts are read and answers generated.
    Bench(BenchArgs),
    /// Fit how an adapter's KV pages differ from the base's, and keep what was found for that adapter of that model.
    Calibrate(CalibrateArgs),
    /// Measure what each way of storing an adapter's KV pages costs, in bytes and in what the model says.
    Quality(QualityArgs),
    /// Fit what chooses adapters for prompts, or measure it.
    #[command(subcommand)]
    Router(RouterCommand),
    /// Play workloads to the KV cache under each of its policies, in simulated time.
    Simulate(SimulateArgs),
    /// Examine the GPUs: which of their kernels are right, and whether they are faster than the CPU; exit 1 if a kernel is
    /// wrong.
    Doctor(DoctorArgs),
}

/// Options of `doctor`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DoctorArgs {
    /// Print one JSON object instead.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,
}

/// Where chunks and adapters are that are not in use.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct TierArgs {
    /// Write pages to a file in the store, of at most SIZE, as 64MiB, and read them from there when they are wanted again, also in the
    /// next run
    #[arg(long, value_name = "SIZE", requires = "store", value_parser = size)]
    pub swap: Option<u64>,
    /// Hold the file's reads and writes back to what such storage takes.
    #[arg(long, value_enum, value_name = "STORAGE", requires = "swap")]
    pub flash_profile: Option<FlashArg>,
    /// Keep adapters in the pool, beside pages: they are loaded when they are needed, and go when others need the room more.
    #[arg(long)]
    pub pool_adapters: bool,
}

/// `--flash-profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FlashArg {
    /// UFS 4.0, of phones since 2022.
    #[value(name = "ufs-4.0")]
    Ufs4,
}

impl TierArgs {
    /// An engine's options with these.
    #[must_use]
    pub fn with(&self, options: EngineOptions) -> EngineOptions {
        let profile = self.flash_profile.map(|FlashArg::Ufs4| FlashProfile::UFS_4_0);
        let swap = self.swap.map(|bytes| SwapOptions { profile, ..SwapOptions::new(bytes) });
        EngineOptions { swap, pool_adapters: self.pool_adapters, ..options }
    }
}

/// `4096`, `512KiB`, `3MiB`, `1GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 3] = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("expected a size, as 4096, 512KiB or 3MiB, found {text:?}"))
}

/// What is recorded of a run.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct TraceArgs {
    /// Record steps, what goes to and from flash, adapters and the kernels' times in FILE, for ui.perfetto.dev or chrome://tracing.
    /// Steps are slower meanwhile
    #[arg(long, value_name = "FILE")]
    pub perfetto: Option<PathBuf>,
}

impl Args {
    /// The file in which the command is to be recorded.
    #[must_use]
    pub fn perfetto(&self) -> Option<&Path> {
        let trace = match &self.command {
            None => &self.demo.trace,
            Some(Command::Generate(args)) => &args.run.trace,
            Some(Command::Chat(args)) => &args.run.trace,
            Some(Command::Service(args)) => &args.run.trace,
            Some(_) => return None,
        };
        trace.perfetto.as_deref()
    }
}

/// Options of the demo.
#[derive(Debug, ClapArgs)]
pub struct DemoArgs {
    /// Tokens of each answer.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_tokens: usize,
    /// Print one JSON object instead.
    #[arg(long)]
    pub json: bool,
    /// Instead of the demo, write the embedded model and its adapters into DIR, as base and adapters/NAME, for programs
    /// that open folders.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["max_tokens", "json"])]
    pub save: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub engine: EngineArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub trace: TraceArgs,
}

/// Where and how a model runs.
#[derive(Debug, Clone, ClapArgs)]
pub struct EngineArgs {
    /// What the model runs on. `auto` takes a GPU only where `interleaf doctor` found it right and faster than the CPU.
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    pub backend: BackendArg,
    /// How base weights are kept: as the files have them, or converted while loading.
    #[arg(long, value_enum, default_value_t = WeightsArg::Stored)]
    pub weights: WeightsArg,
    /// How KV pages are stored.
    #[arg(long, value_enum, default_value_t = PagesArg::F16)]
    pub pages: PagesArg,
    /// How quantised weights are multiplied; other weights always meet f32 activations. A GPU takes `act-q8` only where it
    /// multiplies bytes fast.
    #[arg(long, value_enum, default_value_t = NumericsArg::ActQ8)]
    pub numerics: NumericsArg,
    /// How the keys of encoded pages are read, which answers with a drift budget find.
    #[arg(long, value_enum, default_value_t = KeysArg::Measured)]
    pub keys: KeysArg,
    /// Worker threads of the CPU backend [default: one per core, on machines with fast and slow ones per fast core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Use slow cores too, on a machine that has fast and slow ones.
    #[arg(long)]
    pub all_cores: bool,
    /// Compute every prompt from its first token on, whatever is cached of earlier ones.
    #[arg(long)]
    pub no_prefix_cache: bool,
    /// Translate no prefix of the base's for an adapter, whatever an answer's drift budget allows.
    #[arg(long)]
    pub no_first_touch: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub gpu: GpuArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,
}

/// How the GPU is used, where it is.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct GpuArgs {
    /// Part of the name of the GPU to use [default: the strongest kind of device]
    #[arg(long, value_name = "NAME")]
    pub gpu_adapter: Option<String>,
    /// What is asked of the GPU: what it offers, or the least that every phone has.
    #[arg(long, value_enum, default_value_t = GpuTierArg::Best)]
    pub gpu_tier: GpuTierArg,
    /// Run this variant of the GPU's kernels rather than the one that suits the device: `baseline`, `subgroup`, `half`,
    /// `staged-half`, `dot` or `matrix`.
    #[arg(long, value_name = "NAME")]
    pub gpu_variant: Option<String>,
    /// Kernels in one command buffer of the GPU; 0 for all of a step. Some drivers lose the device over large ones.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpu_dispatches: usize,
}

/// `--gpu-tier`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum GpuTierArg {
    /// What the device offers.
    #[default]
    Best,
    /// The lowest tier of WebGPU limits and no feature.
    Lowest,
}

impl From<&GpuArgs> for GpuSettings {
    fn from(args: &GpuArgs) -> Self {
        Self {
            adapter: args.gpu_adapter.clone(),
            lowest_tier: args.gpu_tier == GpuTierArg::Lowest,
            variant: args.gpu_variant.clone(),
            dispatches_per_submit: args.gpu_dispatches,
            lost_after: None,
        }
    }
}

/// Where the engine keeps what it knows between runs.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct StoreArgs {
    /// A folder for what is kept between runs, such as digests; `verify` keeps and reads nothing, and `service` keeps contexts
    /// only in one that is named here [default: interleaf in the platform's folder for caches]
    #[arg(long, value_name = "DIR", env = "INTERLEAF_STORE", hide_env_values = true)]
    pub store: Option<PathBuf>,
}

impl StoreArgs {
    /// The folder; `None` on a platform without one for caches.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        self.store.clone().or_else(|| Some(dirs::cache_dir()?.join("interleaf")))
    }
}

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendArg {
    /// A GPU that `interleaf doctor` found right and faster, else the CPU.
    Auto,
    /// Rayon over vectorised loops.
    Cpu,
    /// Vulkan or Metal through wgpu.
    Gpu,
    /// The plain-Rust reference: slow, the definition of right.
    Ref,
}

impl From<BackendArg> for BackendChoice {
    fn from(arg: BackendArg) -> Self {
        match arg {
            BackendArg::Auto => Self::Auto,
            BackendArg::Cpu => Self::Cpu,
            BackendArg::Gpu => Self::Gpu,
            BackendArg::Ref => Self::Ref,
        }
    }
}

/// `--weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsArg {
    /// As the files have them.
    Stored,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// GGUF's Q8_0: 8.5 bits a weight.
    Q8,
    /// GGUF's Q4_0: 4.5 bits a weight.
    Q4,
}

impl WeightsArg {
    /// Whether the weights are quantised, so that goldens of the stored weights do not apply.
    #[must_use]
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::Q8 | Self::Q4)
    }
}

impl From<WeightsArg> for WeightFormat {
    fn from(arg: WeightsArg) -> Self {
        match arg {
            WeightsArg::Stored => Self::Stored,
            WeightsArg::F16 => Self::F16,
            WeightsArg::Bf16 => Self::Bf16,
            WeightsArg::Q8 => Self::Q8_0,
            WeightsArg::Q4 => Self::Q4_0,
        }
    }
}

/// `--pages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PagesArg {
    /// Half precision.
    F16,
    /// Single precision: nothing is rounded.
    F32,
}

impl From<PagesArg> for PageElement {
    fn from(arg: PagesArg) -> Self {
        match arg {
            PagesArg::F16 => Self::F16,
            PagesArg::F32 => Self::F32,
        }
    }
}

/// `--numerics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NumericsArg {
    /// Activations stay f32, weights are dequantised.
    ActF32,
    /// Activations are quantised to Q8_0 blocks and multiplied as integers.
    ActQ8,
}

impl From<NumericsArg> for Numerics {
    fn from(arg: NumericsArg) -> Self {
        match arg {
            NumericsArg::ActF32 => Self::ActF32,
            NumericsArg::ActQ8 => Self::ActQ8_0,
        }
    }
}

/// `--keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeysArg {
    /// As exact pages where that takes less time, as measured with an answer's own pages; else where they are.
    Measured,
    /// Where they are.
    InPlace,
    /// As exact pages, as far as there is free room.
    Materialised,
}

impl From<KeysArg> for KeyPath {
    fn from(arg: KeysArg) -> Self {
        match arg {
            KeysArg::Measured => Self::Measured,
            KeysArg::InPlace => Self::InPlace,
            KeysArg::Materialised => Self::Materialised,
        }
    }
}

/// `NAME=DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFolder {
    /// The adapter's name.
    pub name: String,
    /// Its PEFT folder.
    pub folder: PathBuf,
}

fn named_folder(text: &str) -> Result<NamedFolder, String> {
    match text.split_once('=') {
        Some(("none", _)) => Err("none is the base model's name".into()),
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
            Ok(NamedFolder { name: name.into(), folder: folder.into() })
        }
        _ => Err("expected NAME=DIR".into()),
    }
}

/// A model and its adapters.
#[derive(Debug, Clone, ClapArgs)]
pub struct ModelArgs {
    /// A Hugging Face model folder [default: the embedded demo model and its adapters]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// A PEFT adapter folder and a name for it; may be repeated.
    #[arg(long = "adapter", value_name = "NAME=DIR", value_parser = named_folder)]
    pub adapters: Vec<NamedFolder>,
    /// The adapter to run, or `none` for the base model [default: the one `--adapter`, if there is just
    /// one, else none]
    #[arg(long = "use", value_name = "NAME")]
    pub chosen: Option<String>,
}

/// What runs a model that answers, what of its pages and adapters is not always in memory, and what is recorded of it.
#[derive(Debug, Clone, ClapArgs)]
pub struct RunArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub engine: EngineArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tiers: TierArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub trace: TraceArgs,
}

/// Options of `generate`.
#[derive(Debug, ClapArgs)]
pub struct GenerateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// What is asked.
    #[arg(long, value_name = "TEXT", default_value = "What does `Vec::push` do?")]
    pub prompt: String,
    /// Let the router that is kept for this model choose the adapter (`interleaf router train`).
    #[arg(long, conflicts_with = "chosen")]
    pub route: bool,
    /// A system message; needs a chat template.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Give the prompt to the model as it is, without the chat template.
    #[arg(long)]
    pub raw: bool,
    /// The longest answer, in tokens.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// The drift budget: what the mean divergence of answers from exact ones may be, in nats. Pages that nobody uses are then
    /// kept in less room, and read by those who allow what that costs.
    #[arg(long, value_name = "NATS", default_value = "exact", value_parser = drift)]
    pub drift: f32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    /// Print one JSON object instead of streaming.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub run: RunArgs,
}

/// A drift budget: `exact`, or a divergence.
fn drift(text: &str) -> Result<f32, String> {
    let divergence = if text == "exact" { Some(0.0) } else { text.parse().ok() };
    let is_one = |drift: &f32| *drift >= 0.0 && drift.is_finite();
    divergence.filter(is_one).ok_or_else(|| "neither `exact` nor a divergence in nats, such as 1e-4".into())
}

/// How tokens are chosen, and where an answer ends.
#[derive(Debug, Clone, ClapArgs)]
pub struct SamplingArgs {
    /// 0 is greedy [default: the model's generation_config.json, else 0]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Draw from the K most likely tokens; 0 for all [default: likewise, else 0]
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Draw from the most likely tokens that together reach P [default: likewise, else 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Draw from tokens at least P times as likely as the most likely one [default: likewise, else 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Penalty on the last 64 tokens; 1 for none [default: likewise, else 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Of the random draws: the same seed gives the same answer.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Add BIAS to a token's logit, -inf to ban it; may be repeated. TOKEN is the token's number.
    #[arg(long = "logit-bias", value_name = "TOKEN=BIAS", value_parser = logit_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// End the answer before this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

fn context(text: &str) -> Result<usize, String> {
    let tokens = text.parse().map_err(|_| "expected a number of tokens")?;
    if tokens >= 16 { Ok(tokens) } else { Err("expected at least 16 tokens".into()) }
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (token, bias) = text.split_once('=').ok_or("expected TOKEN=BIAS")?;
    let token = token.parse().map_err(|_| format!("{token:?} is not a token's number"))?;
    let bias = bias.parse().map_err(|_| format!("{bias:?} is not a number"))?;
    Ok((token, bias))
}

/// Options of `chat`.
#[derive(Debug, ClapArgs)]
pub struct ChatArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// A system message to begin with.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// The longest answer, in tokens.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_tokens: usize,
    /// Tokens that a conversation may have, at least 16, as far as the model allows: room for them is taken at the
    /// start.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = context)]
    pub context: usize,
    /// The drift budget: what the mean divergence of answers from exact ones may be, in nats. Pages that nobody uses are then
    /// kept in less room, and read by those who allow what that costs.
    #[arg(long, value_name = "NATS", default_value = "exact", value_parser = drift)]
    pub drift: f32,
    /// Between answers, put what nobody reads to rest: in a small part of its room, decoded again when it is read. Of adapters
    /// that `interleaf calibrate` has looked at, with a drift budget.
    #[arg(long, requires = "drift")]
    pub at_rest: bool,
    /// Between answers, give what was attended to least fewer bits, so that a context takes such a share of what it takes at 8
    /// bits, as 0.5; as far as the drift budget allows, of which half is for that: 4 bits take one of 2.5e-3, 2 bits of 4e-2
    #[arg(long, value_name = "SHARE", requires = "drift")]
    pub widths: Option<f64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub run: RunArgs,
}

/// Options of `verify`.
#[derive(Debug, Clone, ClapArgs)]
pub struct VerifyArgs {
    /// A Hugging Face model folder [default: the embedded demo model and its adapters]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Golden vectors: a folder with index.json and a file per model, or with golden.json and
    /// golden.safetensors.
    #[arg(long, value_name = "DIR", required_unless_present = "suite")]
    pub golden: Option<PathBuf>,
    /// Instead of one golden set, every folder in DIR and below that has golden/ and config.json, or golden/ and
    /// base/config.json, or golden/ alone that names a base beside it: each on every backend, in one table.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "golden", "adapters", "backend"])]
    pub suite: Option<PathBuf>,
    /// What the suite runs on.
    #[arg(
        long,
        value_enum,
        value_name = "BACKENDS",
        value_delimiter = ',',
        default_value = "ref,cpu",
        conflicts_with = "golden"
    )]
    pub backends: Vec<BackendArg>,
    /// One adapter folder, or a folder of them [default: the embedded ones for the embedded model, else
    /// what golden.json names, or `adapters` beside the model or the golden folder]
    #[arg(long, value_name = "DIR")]
    pub adapters: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub engine: EngineArgs,
}

/// Options of `perplexity`.
#[derive(Debug, ClapArgs)]
pub struct PerplexityArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// The text, UTF-8.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens scored in one window; each window starts anew, with the model's first token if it has one.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub window: usize,
    /// Print one JSON object instead.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub engine: EngineArgs,
}

/// Options of `inspect`.
#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// A Hugging Face model folder or a PEFT adapter folder [default: the embedded demo model]
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// The base model's folder, for an adapter [default: base_model_name_or_path of its
    /// adapter_config.json, if that is a folder]
    #[arg(long, value_name = "BASE", requires = "folder")]
    pub model: Option<PathBuf>,
    /// Read every weight of the model, or of the adapter's base, and refuse NaN and infinities. An
    /// adapter's own are always read.
    #[arg(long)]
    pub check: bool,
    /// Print one JSON object instead.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn biases_are_numbers_by_token() {
        assert_eq!(logit_bias("7=-inf"), Ok((7, f32::NEG_INFINITY)));
        assert_eq!(logit_bias("7=2.5"), Ok((7, 2.5)));
        assert!(logit_bias("7").is_err() && logit_bias("-7=1").is_err() && logit_bias("7=x").is_err());
    }

    #[test]
    fn adapters_are_named() {
        assert_eq!(named_folder("a=b=c").unwrap(), NamedFolder { name: "a".into(), folder: "b=c".into() });
        assert!(
            named_folder("folder").is_err() && named_folder("=x").is_err() && named_folder("x=").is_err()
        );
    }
}
