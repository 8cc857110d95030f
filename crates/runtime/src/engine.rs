//! The engine: a base model on a backend, its adapters and its KV cache.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use interleaf_contract::{
    Backend, BackendInfo, CHUNK_TOKENS, DeviceWork, MemoryReport, Numerics, PageCodec, PoolGeometry, RopeId,
};
use interleaf_kv::KvCache;
use interleaf_model::{
    ChatTemplate, Digest, Model, ModelConfig, PeftAdapter, Source, Tokenizer, WeightFormat,
};

use crate::adapters::{AdapterSummary, Adapters};
use crate::resident::{self, Resident, WeightBytes};
use crate::store::Seen;
use crate::{BackendChoice, EngineError, GpuGate, GpuSettings, Store, backend};

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
    pub pages: PageCodec,
    /// How host backends multiply quantised weights.
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
    /// are the same to the bit.
    pub prefill_rows: usize,
    /// A folder of the engine's own, for what it keeps between runs, such as digests; `None` to keep nothing.
    pub store: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            backend: BackendChoice::Auto,
            weights: WeightFormat::Stored,
            pages: PageCodec::F16,
            numerics: Numerics::ActQ8_0,
            gpu: GpuSettings::default(),
            threads: 0,
            performance_threads: true,
            context: 0,
            prefill_rows: 128,
            store: None,
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
    /// Of the pool, the chunks that sequences own.
    pub kv_in_use: u64,
}

/// One base model, ready to answer under any of its adapters.
pub struct Engine {
    pub(crate) backend: Box<dyn Backend>,
    /// Of a GPU; `None` where the model runs on the host.
    pub(crate) gate: Option<GpuGate>,
    pub(crate) model: Model,
    pub(crate) resident: Resident,
    /// Rotary factors up to the longest sequence that the pool has had room for.
    pub(crate) ropes: Vec<RopeId>,
    rope_positions: usize,
    weights: WeightFormat,
    pub(crate) adapters: Adapters,
    pub(crate) kv: KvCache,
    pub(crate) context: usize,
    pub(crate) prefill_rows: usize,
    /// Where a tokenizer would be, for messages.
    tokenizer_file: String,
    pages: PageCodec,
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
    store: Store,
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
        match Self::open_once(source.clone(), options, progress) {
            Err(EngineError::Backend(e)) if backend::prefers_gpu(options) => {
                tracing::warn!("the CPU runs instead: {e}");
                let options = EngineOptions { backend: BackendChoice::Cpu, ..options.clone() };
                Self::open_once(source, &options, progress)
            }
            opened => opened,
        }
    }

    fn open_once(
        source: Source,
        options: &EngineOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, EngineError> {
        if options.prefill_rows == 0 {
            let (option, expected) = ("prefill_rows", "at least 1");
            return Err(EngineError::InvalidOption { option, expected, found: "0".into() });
        }
        let mut backend = backend::open(options)?;
        let tokenizer_file = source.describe("tokenizer.json");
        let opening = SystemTime::now();
        let model = Model::open(source)?;
        let seen = Seen::model(&model, opening);
        let longest = model.config().max_positions;
        let context = if options.context == 0 { longest } else { options.context.min(longest) };
        let resident = resident::upload(&model, options.weights, &mut *backend, progress)?;
        let ropes = ropes(model.config(), 0, &mut *backend)?;
        let (tokenizer, template) = (model.tokenizer()?, model.chat_template()?);
        let geometry = geometry(model.config(), options.pages, 0);
        tracing::info!(backend = backend.info().name, layers = model.config().layers, "model resident");
        let gate = (backend.info().name == "gpu").then(GpuGate::default);
        Ok(Self {
            backend,
            gate,
            model,
            resident,
            ropes,
            rope_positions: 0,
            weights: options.weights,
            adapters: Adapters::default(),
            kv: KvCache::new(&geometry).counting_from(ENGINES.fetch_add(1 << 40, Ordering::Relaxed)),
            context,
            prefill_rows: options.prefill_rows,
            tokenizer_file,
            pages: options.pages,
            tokenizer,
            template,
            store: Store::new(options.store.clone()),
            seen,
            digest: OnceLock::new(),
        })
    }

    /// Loads a PEFT adapter and makes it resident under a name.
    ///
    /// # Errors
    /// If its files are refused, it does not fit the model, or the name is taken.
    pub fn register_adapter(&mut self, name: &str, source: &Source) -> Result<AdapterSummary, EngineError> {
        self.adapters.check_name(name)?;
        let opening = SystemTime::now();
        let peft = PeftAdapter::open(name, source, &self.model)?;
        let (digest, _) = self.store.adapter_digest(&peft, source, &self.model, opening);
        self.adapters.register(peft, digest, &self.resident.modules, &mut *self.backend)
    }

    /// Makes an adapter resident that is already in memory, under the name it has.
    ///
    /// # Errors
    /// If it does not fit the model, or the name is taken.
    pub fn register_opened(&mut self, adapter: PeftAdapter) -> Result<AdapterSummary, EngineError> {
        let digest = adapter.digest();
        self.adapters.register(adapter, digest, &self.resident.modules, &mut *self.backend)
    }

    /// The registered adapters, by name.
    pub fn adapters(&self) -> impl Iterator<Item = &AdapterSummary> {
        self.adapters.summaries()
    }

    /// Replaces the KV pool by one with room for `sequences` sequences of `tokens` tokens each. Open
    /// sequences are closed.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn reserve_kv(&mut self, sequences: usize, tokens: usize) -> Result<(), EngineError> {
        let slots = sequences.saturating_mul(tokens.div_ceil(CHUNK_TOKENS));
        // One sequence may take the whole pool. Growing by doubling keeps tables few.
        let longest = slots.saturating_mul(CHUNK_TOKENS).min(self.context);
        if longest > self.rope_positions {
            let positions = longest.checked_next_power_of_two().unwrap_or(longest).min(self.context);
            self.ropes = ropes(self.model.config(), positions, &mut *self.backend)?;
            self.rope_positions = positions;
        }
        let geometry = geometry(self.model.config(), self.pages, slots);
        self.backend.create_pool(geometry)?;
        self.kv = self.kv.replaced(&geometry);
        Ok(())
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

    /// What the model runs on.
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
    /// nobody takes away.
    #[must_use]
    pub fn gpu_gate(&self) -> Option<GpuGate> {
        self.gate.clone()
    }

    /// Suspends the GPU and waits until it has done what it was given: for apps that go to the background. Until
    /// [`Engine::resume_gpu`] answers wait, and [`Engine::feed`] is refused. On the host nothing changes.
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

    /// Measures the time of each kernel from now on, or no longer. Steps are slower meanwhile.
    ///
    /// # Errors
    /// If the backend cannot.
    pub fn set_profiling(&mut self, on: bool) -> Result<(), EngineError> {
        Ok(self.backend.set_profiling(on)?)
    }

    /// What the device did since this was last called; `None` where the backend does not count.
    pub fn take_work(&mut self) -> Option<DeviceWork> {
        self.backend.take_work()
    }

    /// Bytes held now.
    #[must_use]
    pub fn memory(&self) -> MemoryUse {
        MemoryUse { backend: self.backend.memory(), kv_in_use: self.kv.bytes_held() }
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

/// The tables of every rope that layers of the model turn by.
fn ropes(
    config: &ModelConfig,
    positions: usize,
    backend: &mut dyn Backend,
) -> Result<Vec<RopeId>, EngineError> {
    config.ropes.iter().map(|rope| Ok(backend.create_rope(rope.table(positions))?)).collect()
}

fn geometry(config: &ModelConfig, codec: PageCodec, slots: usize) -> PoolGeometry {
    let (layers, kv_heads, head_dim) = (config.layers, config.kv_heads, config.head_dim);
    PoolGeometry { layers, kv_heads, head_dim, slots, codec }
}
