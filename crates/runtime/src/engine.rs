//! The engine: a base model on a backend, its adapters and its KV cache.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use interleaf_contract::{
    Backend, BackendInfo, DevicePeaks, DeviceWork, MemoryReport, Numerics, PageElement, RopeId,
};
use interleaf_model::{
    ChatTemplate, Digest, Model, ModelConfig, PeftAdapter, Source, Tokenizer, WeightFormat,
};

use crate::adapters::{AdapterSummary, Adapters, Loader, Residence};
use crate::cache::{Cache, Kinds};
use crate::fallback::Fallback;
use crate::forms::Calibrated;
use crate::history::Histories;
use crate::keys::Keys;
use crate::origin::Origin;
use crate::reserve::{Reservation, ropes};
use crate::resident::{self, Resident, WeightBytes};
use crate::router::Router;
use crate::store::{Loading, Seen};
use crate::swap::Swap;
use crate::{
    BackendChoice, EngineError, GpuGate, GpuSettings, KeyPath, MassSampling, Store, SwapOptions,
    WidthOptions, backend, budget,
};

/// Where the sequences of the next engine are counted from, so that none is taken for another engine's.
static ENGINES: AtomicU64 = AtomicU64::new(0);

/// How an engine is opened.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where the model runs.
    pub backend: BackendChoice,
    /// How base weights are kept.
    pub weights: WeightFormat,
    /// How KV pages are stored.
    pub pages: PageElement,
    /// How quantised weights are multiplied; a GPU takes [`Numerics::ActQ8_0`] only where it multiplies bytes fast.
    pub numerics: Numerics,
    /// How the GPU is used, where it is.
    pub gpu: GpuSettings,
    /// Worker threads of the CPU backend; 0 for one per core that `performance_threads` allows.
    pub threads: usize,
    /// Whether the CPU backend keeps to the fast cores of a machine that has slow ones too, as phones do; 0 threads
    /// are then one per fast core. More threads than fast cores run on all of them.
    pub performance_threads: bool,
    /// The longest sequence; 0 for what the model allows.
    pub context: usize,
    /// The most prompt rows in one step. Smaller steps answer sooner, larger ones prefill faster; results
    /// are the same to the bit, but for what [`KeyPath`] says of those that allow a loss.
    pub prefill_rows: usize,
    /// Whether what one request computed answers for the next one that begins with the same tokens under the same adapter.
    /// Answers are the same to the bit, but where generated rows have kernels of their own, as on a GPU.
    pub prefix_cache: bool,
    /// Whether what allows a loss goes to rest in idle time ([`Engine::tend`]), where the store has a calibration for that: an
    /// adapter's chunks in a small part of what they take otherwise, which have to be decoded before they are read again. Until
    /// then, and while they are open, they are exact pages.
    pub at_rest: bool,
    /// Whether an adapter's calls that allow a loss may go on from the base's pages by translation, where the store has a
    /// calibration that measured what that costs.
    pub first_touch: bool,
    /// How contexts that nobody uses get narrower in idle time ([`Engine::tend`]), as far as their calls' drift budgets allow;
    /// `None` where they do not, and it is not measured how much chunks are attended to.
    pub widths: Option<WidthOptions>,
    /// How the keys of encoded chunks are read.
    pub keys: KeyPath,
    /// A folder of the engine's own, for what it keeps between runs, such as digests; `None` to keep nothing.
    pub store: Option<PathBuf>,
    /// The most that the engine may hold, in bytes: weights, adapters, the pool, activations, and what is on its way between the pool
    /// and the file below it, at most 64 MiB. What cannot fit is refused before it is allocated
    /// ([`EngineError::DoesNotFit`](crate::EngineError::DoesNotFit)); `None` for no such bound.
    pub memory_budget: Option<u64>,
    /// Whether a model is loaded again, or a pool reserved, whose last load or reservation ended with its process
    /// ([`EngineError::LastLoadFailed`](crate::EngineError::LastLoadFailed)).
    pub retry_load: bool,
    /// Whether adapters share the pool with pages: their weights are loaded from their files when a call needs them, on a thread of
    /// their own, take blocks that pages could have, and go when others need these more; what a call uses stays. So there may be
    /// thousands. Else they are resident from when they are registered.
    pub pool_adapters: bool,
    /// A file of the store that chunks are written to when a call returns and read from when its context comes back: after memory
    /// was wanted for others, or in the next run. `None` where what leaves memory is computed again.
    pub swap: Option<SwapOptions>,
    /// Where that file is, if not in the store.
    pub swap_folder: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            backend: BackendChoice::Auto,
            weights: WeightFormat::Stored,
            pages: PageElement::F16,
            numerics: Numerics::ActQ8_0,
            gpu: GpuSettings::default(),
            threads: 0,
            performance_threads: true,
            context: 0,
            prefill_rows: 128,
            prefix_cache: true,
            at_rest: false,
            first_touch: true,
            widths: None,
            keys: KeyPath::default(),
            store: None,
            memory_budget: None,
            retry_load: false,
            pool_adapters: false,
            swap: None,
            swap_folder: None,
        }
    }
}

/// How far loading has come, in layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Layers loaded.
    pub done: usize,
    /// Layers of the model.
    pub total: usize,
}

/// Bytes held, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// What the backend holds. `kv` is the whole pool.
    pub backend: MemoryReport,
    /// Of the pool, the pages of open sequences.
    pub kv_in_use: u64,
    /// Of the pool, pages of answers that are over, kept for whoever comes with the same tokens until the room is needed.
    pub kv_cached: u64,
    /// Of these two, pages of the base that stand for an adapter's lower layers as well.
    pub kv_shared_layers: u64,
    /// Of these two, pages that are not stored as they were computed.
    pub kv_encoded: u64,
    /// Of these, chunks at rest. What they are decoded with is read from the store when it is needed, and not held.
    pub kv_at_rest: u64,
    /// Of the pages of open sequences, exact keys that are held beside encoded ones and read in their place. Nothing is evicted
    /// for them, and they are given up for anything else.
    pub kv_keys: u64,
    /// Of the pool, adapters' weights ([`EngineOptions::pool_adapters`]): their bytes are in `backend.adapters`, and no page may take
    /// as many.
    pub kv_adapters: u64,
    /// Beside the pool, what calibrated pages are decoded with: the bases of adapters that have answered with a drift budget.
    pub kv_bases: u64,
    /// Likewise, what the base's pages have been translated with for adapters.
    pub kv_maps: u64,
    /// Of the pool, what the cache holds and may hold: pages and adapters' weights, whole blocks.
    pub kv_memory: TierUse,
    /// Of the file below memory ([`EngineOptions::swap`]), likewise; nothing where there is none.
    pub kv_flash: TierUse,
    /// Beside the pool, copies of pages that wait to be written there.
    pub kv_on_its_way: u64,
}

/// What the cache has of a tier, in bytes, rounding to whole blocks included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierUse {
    /// What it holds.
    pub held: u64,
    /// The most that it may hold.
    pub budget: u64,
}

/// One base model, ready to answer under any of its adapters.
pub struct Engine {
    pub(crate) backend: Box<dyn Backend>,
    /// Of a GPU; `None` where the model runs on the host.
    pub(crate) gate: Option<GpuGate>,
    /// Adapters are opened for it on a thread of their own.
    pub(crate) model: Arc<Model>,
    pub(crate) resident: Resident,
    /// Rotary factors for the positions that are reserved.
    pub(crate) ropes: Vec<RopeId>,
    pub(crate) reserved: Reservation,
    pub(crate) weights: WeightFormat,
    pub(crate) adapters: Adapters,
    pub(crate) cache: Cache,
    /// Forms of adapters' pages that calibrations gave.
    pub(crate) calibrated: Calibrated,
    /// Where the model goes if its device fails; `None` where such a failure is an error.
    pub(crate) fallback: Option<Fallback>,
    /// Whether something is being done with the device, to the end of which it stays.
    pub(crate) is_on_device: bool,
    pub(crate) histories: Histories,
    pub(crate) context: usize,
    pub(crate) prefill_rows: usize,
    pub(crate) at_rest: bool,
    pub(crate) first_touch: bool,
    /// Of which layers and heads steps say how much they attended to each chunk.
    pub(crate) mass: Option<MassSampling>,
    pub(crate) widths: Option<WidthOptions>,
    /// What chooses adapters, if that is open.
    pub(crate) router: Option<Router>,
    /// How the keys of encoded chunks are read, and what that takes.
    pub(crate) keys: Keys,
    /// Where a tokenizer would be, for messages.
    tokenizer_file: String,
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
    pub(crate) store: Store,
    pub(crate) memory_budget: Option<u64>,
    pub(crate) pool_adapters: bool,
    pub(crate) retry_load: bool,
    /// The model and its weights, for messages.
    pub(crate) what_it_is: String,
    /// What opens the files of adapters that are loaded when they are needed.
    pub(crate) loader: Loader,
    pub(crate) swap_options: Option<SwapOptions>,
    pub(crate) swap_folder: Option<PathBuf>,
    /// The file below memory, once a pool is reserved.
    pub(crate) swap: Option<Swap>,
    /// Memory was given back since a sequence was last opened: idle work does not fill it again.
    pub(crate) is_trimmed: bool,
    /// What the device did in steps whose kernels were told of.
    pub(crate) told: Option<DeviceWork>,
    /// The model's files as they were when they were opened.
    seen: Seen,
    digest: OnceLock<Digest>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("backend", &self.backend.info()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens a model and makes it resident. The KV pool starts empty: see [`Engine::reserve_kv`]. Where the backend is
    /// [`BackendChoice::Auto`] and a GPU was preferred that cannot take the model, the CPU does, and that is said.
    ///
    /// # Errors
    /// If the model's files are refused, or the backend cannot run it.
    pub fn open(
        source: Source,
        options: &EngineOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, EngineError> {
        Self::open_on(backend::open(options)?, source, options, progress)
    }

    /// The same on a backend of the caller's. [`EngineOptions::backend`] then only says whether the CPU takes over
    /// where this one fails: it does with [`BackendChoice::Auto`].
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_on(
        mut backend: Box<dyn Backend>,
        source: Source,
        options: &EngineOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, EngineError> {
        if options.prefill_rows == 0 {
            let (option, expected) = ("prefill_rows", "at least 1");
            return Err(EngineError::InvalidOption { option, expected, found: "0".into() });
        }
        options.widths.map_or(Ok(()), |widths| widths.check())?;
        let has_folder = options.store.is_some() || options.swap_folder.is_some();
        options.swap.map_or(Ok(()), |swap| swap.check(has_folder, options.at_rest))?;
        let tokenizer_file = source.describe("tokenizer.json");
        let opening = SystemTime::now();
        let model = Model::open(source)?;
        let seen = Seen::model(&model, opening);
        let longest = model.config().max_positions;
        let context = if options.context == 0 { longest } else { options.context.min(longest) };
        let reserved = Reservation::none(model.config(), options.pages);
        let config = model.config();
        let weights = budget::weight_bytes(&model, options.weights);
        let working = budget::activation_bytes(config, options.prefill_rows);
        let what_it_is = format!(
            "{} with its weights as {}",
            model.source().describe("").trim_end_matches('/'),
            format!("{:?}", options.weights).to_lowercase()
        );
        budget::check(what_it_is.clone(), weights + working, options.memory_budget)?;
        let _loading = Loading::mark(options.store.as_deref(), "loading", &what_it_is, options.retry_load)?;
        let mut fallback = Fallback::new(options, &*backend);
        let mut upload = |backend: &mut dyn Backend| -> Result<(Resident, Vec<RopeId>), EngineError> {
            let resident = resident::upload(&model, options.weights, backend, progress)?;
            Ok((resident, ropes(model.config(), reserved.positions, backend)?))
        };
        let mut uploaded = upload(&mut *backend);
        if let Err(EngineError::Backend(e)) = &uploaded
            && let Some(Fallback { cpu, .. }) = fallback.take()
        {
            tracing::warn!("the CPU runs instead: {e}");
            backend = backend::open_cpu(cpu)?;
            uploaded = upload(&mut *backend);
        }
        let (resident, ropes) = uploaded?;
        let (tokenizer, template) = (model.tokenizer()?, model.chat_template()?);
        tracing::info!(backend = backend.info().name, layers = model.config().layers, "model resident");
        let gate = (backend.info().name == "gpu").then(|| GpuGate::new(backend.waiter()));
        let first = ENGINES.fetch_add(1 << 40, Ordering::Relaxed);
        let kinds = Kinds {
            encodes: backend.codes_pages(),
            narrows: options.widths.map(|widths| widths.tolerance()),
            below: None,
        };
        let cache = Cache::new(&reserved.geometry, context, options.prefix_cache, first, kinds)?;
        Ok(Self {
            backend,
            gate,
            model: Arc::new(model),
            resident,
            ropes,
            reserved,
            weights: options.weights,
            adapters: Adapters::default(),
            cache,
            calibrated: Calibrated::default(),
            fallback,
            is_on_device: false,
            histories: Histories::default(),
            context,
            prefill_rows: options.prefill_rows,
            at_rest: options.at_rest,
            first_touch: options.first_touch,
            // Nobody else asks.
            mass: options
                .widths
                .filter(|_| kinds.encodes && options.prefix_cache)
                .map(|widths| widths.sampling),
            widths: options.widths,
            router: None,
            keys: Keys::new(options.keys),
            tokenizer_file,
            tokenizer,
            template,
            store: Store::new(options.store.clone()),
            memory_budget: options.memory_budget,
            pool_adapters: options.pool_adapters,
            retry_load: options.retry_load,
            what_it_is,
            loader: Loader::default(),
            swap_options: options.swap,
            swap_folder: options.swap_folder.clone(),
            swap: None,
            is_trimmed: false,
            told: None,
            seen,
            digest: OnceLock::new(),
        })
    }

    /// Loads a PEFT adapter and makes it resident under a name.
    ///
    /// # Errors
    /// If its files are refused, it does not fit the model, or the name is taken; or, before a file is read or anything
    /// given to the GPU, while that is suspended ([`EngineError::GpuSuspended`]).
    pub fn register_adapter(&mut self, name: &str, source: &Source) -> Result<AdapterSummary, EngineError> {
        if self.gate.as_ref().is_some_and(GpuGate::is_suspended) {
            return Err(EngineError::GpuSuspended);
        }
        self.adapters.check_name(name)?;
        let opening = SystemTime::now();
        // What is not held may be changed while it is looked at.
        let read = if self.pool_adapters { source.in_memory(&PeftAdapter::FILES)? } else { source.clone() };
        let peft = PeftAdapter::open(name, &read, &self.model)?;
        let (digest, _) = self.store.adapter_digest(&peft, source, &self.model, opening);
        self.register(peft, digest, Some(source))
    }

    /// Makes an adapter resident that is already in memory, under the name it has. It stays in memory as long as
    /// the engine may have to leave a GPU.
    ///
    /// # Errors
    /// If it does not fit the model, or the name is taken; or, with nothing changed and nothing given to the GPU, while
    /// that is suspended ([`EngineError::GpuSuspended`]).
    pub fn register_opened(&mut self, adapter: PeftAdapter) -> Result<AdapterSummary, EngineError> {
        if self.gate.as_ref().is_some_and(GpuGate::is_suspended) {
            return Err(EngineError::GpuSuspended);
        }
        let digest = adapter.digest();
        self.register(adapter, digest, None)
    }

    fn register(
        &mut self,
        adapter: PeftAdapter,
        digest: Digest,
        source: Option<&Source>,
    ) -> Result<AdapterSummary, EngineError> {
        self.on_some_device(&[], |engine| {
            let residence = match source.filter(|_| engine.pool_adapters) {
                Some(source) => Residence::Pooled(Origin::Files {
                    name: adapter.name.clone(),
                    source: source.clone(),
                    digest,
                }),
                None => {
                    Residence::Always(engine.fallback.as_ref().map(|_| Origin::of(&adapter, digest, source)))
                }
            };
            let Self { adapters, resident, backend, cache, .. } = engine;
            adapters.register(adapter.clone(), digest, residence, resident, &mut **backend, cache)
        })
        .inspect(|summary| self.restore_swapped(Some(summary.digest)))
    }

    /// The registered adapters, by name.
    pub fn adapters(&self) -> impl Iterator<Item = &AdapterSummary> {
        self.adapters.summaries()
    }

    /// The tokens from whose last occurrence in a prompt on an activated LoRA acts; `None` for adapters that act on every
    /// token, and for those that are not registered.
    #[must_use]
    pub fn invocation(&self, adapter: &str) -> Option<&[u32]> {
        self.adapters.invocation(adapter)
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// The opened model's files.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the model is, by content ([`Model::digest`]). Every weight is read the first time, unless the
    /// store knows the files.
    pub fn model_digest(&self) -> Digest {
        *self.digest.get_or_init(|| self.store.digest_of_model(&self.model, &self.seen).0)
    }

    /// The longest sequence that this engine takes, in tokens.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// How base weights are kept.
    #[must_use]
    pub fn weights(&self) -> WeightFormat {
        self.weights
    }

    /// What the model runs on now: once the CPU has taken over from a GPU that failed, the CPU.
    #[must_use]
    pub fn backend(&self) -> BackendInfo {
        self.backend.info()
    }

    /// Bytes of weights that a step reads, as they were uploaded.
    #[must_use]
    pub fn weight_bytes(&self) -> WeightBytes {
        self.resident.bytes
    }

    /// What suspends the GPU from another thread while this one answers; `None` where the model runs on the host, which
    /// nobody takes away. Once the CPU has taken over, what is suspended is nothing.
    #[must_use]
    pub fn gpu_gate(&self) -> Option<GpuGate> {
        self.gate.clone()
    }

    /// Suspends the GPU and waits until it has done what it was given: for apps that go to the background. Until
    /// [`Engine::resume_gpu`] answers wait, and whatever else needs the GPU is refused: [`Engine::feed`],
    /// [`Engine::read_kv`], [`Engine::reserve_kv`] and the registering of adapters. On the host nothing changes.
    ///
    /// # Errors
    /// If the device failed; it is suspended all the same.
    pub fn suspend_gpu(&mut self) -> Result<(), EngineError> {
        if let Some(gate) = &self.gate {
            gate.suspend();
            self.backend.drain()?;
        }
        Ok(())
    }

    /// Lets the GPU go on.
    pub fn resume_gpu(&mut self) {
        if let Some(gate) = &self.gate {
            gate.resume();
        }
    }

    /// Measures from now on, or no longer, how much each chunk is attended to ([`Fed::mass`](crate::Fed::mass)).
    ///
    /// # Errors
    /// If it is one layer or head of none.
    pub fn measure_mass(&mut self, sampling: Option<MassSampling>) -> Result<(), EngineError> {
        sampling.map_or(Ok(()), MassSampling::check)?;
        self.mass = sampling;
        Ok(())
    }

    /// Measures the time of each kernel from now on, or no longer. Steps are slower meanwhile.
    ///
    /// # Errors
    /// If the backend cannot.
    pub fn set_profiling(&mut self, on: bool) -> Result<(), EngineError> {
        self.on_device(|engine| Ok(engine.backend.set_profiling(on)?))
    }

    /// What the device did since this was last called; `None` where the backend does not count.
    pub fn take_work(&mut self) -> Option<DeviceWork> {
        match (self.told.take(), self.backend.take_work()) {
            (Some(mut told), Some(more)) => {
                told.add(more);
                Some(told)
            }
            (told, more) => told.or(more),
        }
    }

    /// Looks once at what the device does at best, and keeps 1 GiB of its memory, or what is left of it, for the next
    /// look; `None` where the backend's device does not measure itself.
    ///
    /// # Errors
    /// If the device failed, or answered wrong.
    pub fn measure_peaks(&mut self) -> Result<Option<DevicePeaks>, EngineError> {
        self.on_device(|engine| Ok(engine.backend.measure_peaks()?))
    }

    /// Bytes held now.
    #[must_use]
    pub fn memory(&self) -> MemoryUse {
        let manager = self.cache.manager();
        let usage = manager.usage();
        let tier = |tier| TierUse { held: manager.held_bytes(tier), budget: manager.budget_bytes(tier) };
        MemoryUse {
            backend: self.backend.memory(),
            kv_in_use: usage.in_use,
            kv_cached: usage.cached,
            kv_shared_layers: usage.shared_layers,
            kv_encoded: usage.encoded,
            kv_at_rest: manager.usage_at_rest().values().sum(),
            kv_keys: usage.keys,
            kv_adapters: usage.adapters,
            kv_bases: self.calibrated.bytes(),
            kv_maps: self.calibrated.map_bytes(),
            kv_memory: tier(0),
            kv_flash: tier(1),
            kv_on_its_way: self.swap.as_ref().map_or(0, Swap::bytes_under_way),
        }
    }

    /// Whether all that is known of pages fits together: for tests, and for whoever doubts.
    ///
    /// # Errors
    /// Says what does not: a fault of the library's.
    #[doc(hidden)]
    pub fn check_pages(&self) -> Result<(), String> {
        self.cache.manager().check()
    }

    /// Bytes of the pool's pages, and of chunks at rest, by the codec that they are stored in, rounding included.
    #[must_use]
    pub fn kv_by_codec(&self) -> Vec<(String, u64)> {
        let manager = self.cache.manager();
        let pages = manager.usage_by_codec().into_iter().map(|(codec, bytes)| (codec.to_string(), bytes));
        let at_rest = manager.usage_at_rest().into_iter().map(|(codec, bytes)| (codec.to_string(), bytes));
        pages.chain(at_rest).collect()
    }

    /// The tokenizer, for what needs one.
    ///
    /// # Errors
    /// If the model came without.
    pub fn tokenizer(&self, needed_for: &'static str) -> Result<&Tokenizer, EngineError> {
        let no_tokenizer = || EngineError::NoTokenizer { file: self.tokenizer_file.clone(), needed_for };
        self.tokenizer.as_ref().ok_or_else(no_tokenizer)
    }

    /// The chat template, if the model has one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }
}
