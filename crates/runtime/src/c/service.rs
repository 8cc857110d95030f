//! The header's part about the service itself: opening and closing it, adapters, memory, the GPU.

use std::path::PathBuf;
use std::time::Duration;

use interleaf_contract::MemoryReport;
use interleaf_model::Source;

use super::choices::{
    ALL_CORES, AT_REST, BACKENDS, NO_IDLE_WORK, NO_PREFIX_CACHE, OPEN_FLAGS, POOL_ADAPTERS, RETRY_LOAD,
    TRIM_LEVELS, WEIGHTS,
};
use super::failure::{Failure, guard};
use super::raw::{Fill, Handle, In, Out, Text};
use super::records::{AdapterFacts, MemoryBytes, OpenOptions, RestoredContexts, Stats};
use crate::{
    AdapterStats, AdapterSummary, Engine, EngineOptions, Histogram, MemoryUse, Restored, Service,
    ServiceError, ServiceOptions, ServiceStats, SwapOptions,
};

/// The longest context, in tokens, where nobody says.
const CONTEXT_TOKENS: usize = 4096;

/// For how many of these the pool has room, likewise.
const POOL_CONTEXTS: usize = 4;

/// A number of an option's, or what 0 stands for.
const fn or(number: u32, default: usize) -> usize {
    if number == 0 { default } else { number as usize }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn open(folder: String, options: &OpenOptions) -> Result<Service, Failure> {
    OPEN_FLAGS.check(options.flags)?;
    let is_set = |flag| options.flags & flag != 0;
    let store = options.store_folder.optional("store_folder")?;
    let engine = EngineOptions {
        backend: BACKENDS.get(options.backend)?,
        weights: WEIGHTS.get(options.weights)?,
        threads: options.threads as usize,
        performance_threads: !is_set(ALL_CORES),
        context: or(options.context_tokens, CONTEXT_TOKENS),
        prefix_cache: !is_set(NO_PREFIX_CACHE),
        at_rest: is_set(AT_REST),
        store: store.map(PathBuf::from),
        pool_adapters: is_set(POOL_ADAPTERS),
        retry_load: is_set(RETRY_LOAD),
        memory_budget: Some(options.memory_budget_bytes).filter(|bytes| *bytes > 0),
        swap: Some(options.swap_bytes).filter(|bytes| *bytes > 0).map(SwapOptions::new),
        ..EngineOptions::default()
    };
    let default = ServiceOptions::default();
    let serving = ServiceOptions {
        most_under_way: or(options.most_under_way, default.most_under_way),
        most_waiting: or(options.most_waiting, default.most_waiting),
        most_waiting_of_app: or(options.most_waiting_of_app, default.most_waiting_of_app),
        tend: if is_set(NO_IDLE_WORK) { 0 } else { default.tend },
        keeps_contexts: true,
    };
    let mut engine = Engine::open(Source::dir(folder), &engine, &mut |_| ())?;
    engine.reserve_kv(or(options.pool_contexts, POOL_CONTEXTS), engine.context())?;
    let service = Service::start(engine, serving)?;
    if options.budget_bytes > 0 {
        service.set_budget(options.budget_bytes)?;
    }
    Ok(service)
}

/// `interleaf_open`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_open(
    model_folder: Text,
    options: In<OpenOptions>,
    service: Out<Option<Box<Service>>>,
) -> i32 {
    guard(|| {
        service.give("service", || open(model_folder.required("model_folder")?, &options.read("options")?))
    })
}

/// `interleaf_close`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_close(service: Option<Box<Service>>) -> i32 {
    guard(|| {
        if let Some(service) = service {
            service.stop()?;
        }
        Ok(())
    })
}

/// `interleaf_restored_contexts`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_restored_contexts(
    service: Handle<Service>,
    restored: Fill<RestoredContexts>,
) -> i32 {
    guard(|| {
        let Restored { contexts, cut, unreadable, of_other_models } = service.get("service")?.restored();
        let found = RestoredContexts {
            size: 0,
            cut: number(cut.len()),
            contexts: *contexts as u64,
            unreadable: unreadable.len() as u64,
            of_other_models: *of_other_models as u64,
        };
        restored.set(&found, "restored")
    })
}

/// `interleaf_register_adapter`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_register_adapter(
    service: Handle<Service>,
    name: Text,
    folder: Text,
    adapter: Fill<AdapterFacts>,
) -> i32 {
    name_adapter(service, name, folder, adapter, Service::register_adapter)
}

/// `interleaf_replace_adapter`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_replace_adapter(
    service: Handle<Service>,
    name: Text,
    folder: Text,
    adapter: Fill<AdapterFacts>,
) -> i32 {
    name_adapter(service, name, folder, adapter, Service::replace_adapter)
}

/// Gives a name to the adapter of a folder, in whichever way.
fn name_adapter(
    service: Handle<Service>,
    name: Text,
    folder: Text,
    adapter: Fill<AdapterFacts>,
    way: impl FnOnce(&Service, &str, Source) -> Result<AdapterSummary, ServiceError>,
) -> i32 {
    guard(|| {
        let service = service.get("service")?;
        if adapter.is_wanted() {
            adapter.check("adapter")?;
        }
        let source = Source::dir(folder.required("folder")?);
        let AdapterSummary { sites, max_rank, bytes, activated, .. } =
            way(service, &name.required("name")?, source)?;
        if !adapter.is_wanted() {
            return Ok(());
        }
        let facts = AdapterFacts {
            size: 0,
            max_rank: number(max_rank),
            sites: number(sites),
            activated: activated.into(),
            bytes,
        };
        adapter.set(&facts, "adapter")
    })
}

/// `interleaf_open_router`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_open_router(service: Handle<Service>, file: Text) -> i32 {
    guard(|| Ok(service.get("service")?.open_router(file.optional("file")?.map(PathBuf::from))?))
}

/// `interleaf_trim_memory`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_trim_memory(service: Handle<Service>, level: i32) -> i32 {
    guard(|| Ok(service.get("service")?.trim_memory(TRIM_LEVELS.get(level)?)?))
}

/// `interleaf_set_budget`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_set_budget(service: Handle<Service>, bytes: u64) -> i32 {
    guard(|| Ok(service.get("service")?.set_budget(bytes)?))
}

/// `interleaf_memory_use`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_memory_use(service: Handle<Service>, memory: Fill<MemoryBytes>) -> i32 {
    guard(|| {
        let MemoryUse {
            backend: MemoryReport { base, adapters, kv, activations },
            kv_in_use,
            kv_cached,
            kv_shared_layers,
            kv_encoded,
            kv_at_rest,
            kv_keys,
            kv_adapters,
            kv_bases,
            kv_maps,
            kv_memory,
            kv_flash,
            kv_on_its_way,
        } = service.get("service")?.memory()?;
        let held = MemoryBytes {
            size: 0,
            reserved: 0,
            base,
            adapters,
            pool: kv,
            activations,
            in_use: kv_in_use,
            cached: kv_cached,
            shared_layers: kv_shared_layers,
            encoded: kv_encoded,
            at_rest: kv_at_rest,
            exact_keys: kv_keys,
            bases: kv_bases,
            maps: kv_maps,
            pooled_adapters: kv_adapters,
            held: kv_memory.held,
            budget: kv_memory.budget,
            flash_held: kv_flash.held,
            flash_budget: kv_flash.budget,
            on_its_way: kv_on_its_way,
        };
        memory.set(&held, "memory")
    })
}

/// `interleaf_service_stats`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_service_stats(service: Handle<Service>, stats: Fill<Stats>) -> i32 {
    guard(|| {
        let done = Stats::from(&service.get("service")?.stats()?);
        stats.set(&done, "stats")
    })
}

/// How many were recorded, their sum and their quantiles, in milliseconds.
fn times(of: &Histogram) -> (u64, [f64; 4]) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let quantile = |share| of.quantile(share).map_or(0.0, ms);
    (of.count(), [ms(of.sum()), quantile(0.5), quantile(0.95), quantile(0.99)])
}

impl From<&ServiceStats> for Stats {
    fn from(stats: &ServiceStats) -> Self {
        let (first_tokens, first) = times(&stats.first_token);
        let (per_tokens, per_token) = times(&stats.per_token);
        let AdapterStats { registered, loaded, loads, unloads } = stats.adapters;
        let swap = stats.swap.unwrap_or_default();
        Self {
            size: 0,
            reserved: 0,
            waiting: stats.waiting as u64,
            under_way: stats.under_way as u64,
            answered: stats.answered,
            cancelled: stats.cancelled,
            failed: stats.failed,
            prompt_tokens: stats.prompt_tokens,
            reused_tokens: stats.reused_tokens,
            generated_tokens: stats.generated_tokens,
            computed_tokens: stats.computed_tokens(),
            overloaded: stats.overloaded,
            first_tokens,
            first_token_sum_ms: first[0],
            first_token_p50_ms: first[1],
            first_token_p95_ms: first[2],
            first_token_p99_ms: first[3],
            per_tokens,
            per_token_sum_ms: per_token[0],
            per_token_p50_ms: per_token[1],
            per_token_p95_ms: per_token[2],
            per_token_p99_ms: per_token[3],
            adapters_registered: registered as u64,
            adapters_loaded: loaded as u64,
            adapter_loads: loads,
            adapter_unloads: unloads,
            chunks_written: swap.written,
            chunks_read: swap.read,
            chunks_recomputed: swap.recomputed,
            chunks_unwritten: swap.unwritten,
            chunks_damaged: swap.damaged,
            chunks_restored: swap.restored,
        }
    }
}

/// `interleaf_suspend_gpu`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_suspend_gpu(service: Handle<Service>) -> i32 {
    guard(|| {
        service.get("service")?.suspend_gpu();
        Ok(())
    })
}

/// `interleaf_resume_gpu`.
#[unsafe(no_mangle)]
pub extern "C" fn interleaf_resume_gpu(service: Handle<Service>) -> i32 {
    guard(|| {
        service.get("service")?.resume_gpu();
        Ok(())
    })
}
