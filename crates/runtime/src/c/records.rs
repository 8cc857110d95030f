//! The structs of the header, member by member in its order. `header` holds the two to each other.

use std::ffi::c_char;

use super::raw::{Many, Record, Text};

/// `interleaf_open_options`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct OpenOptions {
    pub size: u32,
    pub backend: i32,
    pub weights: i32,
    pub flags: u32,
    pub threads: u32,
    pub context_tokens: u32,
    pub pool_contexts: u32,
    pub most_under_way: u32,
    pub most_waiting: u32,
    pub most_waiting_of_app: u32,
    pub budget_bytes: u64,
    pub store_folder: Text,
    pub swap_bytes: u64,
    pub memory_budget_bytes: u64,
}

/// `interleaf_restored`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct RestoredContexts {
    pub size: u32,
    pub cut: u32,
    pub contexts: u64,
    pub unreadable: u64,
    pub of_other_models: u64,
}

/// `interleaf_adapter`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AdapterFacts {
    pub size: u32,
    pub max_rank: u32,
    pub sites: u32,
    pub activated: u32,
    pub bytes: u64,
}

/// `interleaf_memory`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MemoryBytes {
    pub size: u32,
    pub reserved: u32,
    pub base: u64,
    pub adapters: u64,
    pub pool: u64,
    pub activations: u64,
    pub in_use: u64,
    pub cached: u64,
    pub shared_layers: u64,
    pub encoded: u64,
    pub at_rest: u64,
    pub exact_keys: u64,
    pub bases: u64,
    pub maps: u64,
    pub pooled_adapters: u64,
    pub held: u64,
    pub budget: u64,
    pub flash_held: u64,
    pub flash_budget: u64,
    pub on_its_way: u64,
}

/// `interleaf_stats`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Stats {
    pub size: u32,
    pub reserved: u32,
    pub waiting: u64,
    pub under_way: u64,
    pub answered: u64,
    pub cancelled: u64,
    pub failed: u64,
    pub prompt_tokens: u64,
    pub reused_tokens: u64,
    pub generated_tokens: u64,
    pub computed_tokens: u64,
    pub overloaded: u64,
    pub first_tokens: u64,
    pub first_token_sum_ms: f64,
    pub first_token_p50_ms: f64,
    pub first_token_p95_ms: f64,
    pub first_token_p99_ms: f64,
    pub per_tokens: u64,
    pub per_token_sum_ms: f64,
    pub per_token_p50_ms: f64,
    pub per_token_p95_ms: f64,
    pub per_token_p99_ms: f64,
    pub adapters_registered: u64,
    pub adapters_loaded: u64,
    pub adapter_loads: u64,
    pub adapter_unloads: u64,
    pub chunks_written: u64,
    pub chunks_read: u64,
    pub chunks_recomputed: u64,
    pub chunks_unwritten: u64,
    pub chunks_damaged: u64,
    pub chunks_restored: u64,
}

/// `interleaf_logit_bias`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct LogitBias {
    pub token: u32,
    pub bias: f32,
}

/// `interleaf_call_options`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CallSettings {
    pub size: u32,
    pub flags: u32,
    pub adapter: Text,
    pub max_tokens: u32,
    pub keep_first: u32,
    pub seed: u64,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub repeat_penalty: f32,
    pub top_k: u32,
    pub repeat_window: u32,
    pub drift: f32,
    pub stop_count: u32,
    pub end_token_count: u32,
    pub logit_bias_count: u32,
    pub stops: Many<Text>,
    pub end_tokens: Many<u32>,
    pub logit_biases: Many<LogitBias>,
    pub route_among: u32,
    pub reserved: u32,
}

/// `interleaf_message`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Message {
    pub role: Text,
    pub content: Text,
}

/// `interleaf_event`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Event {
    pub size: u32,
    pub kind: i32,
    pub done: u64,
    pub total: u64,
    pub text: *const c_char,
    pub text_length: usize,
}

/// `interleaf_answer`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AnswerFacts {
    pub size: u32,
    pub reason: i32,
    pub text: *const c_char,
    pub text_length: usize,
    pub tokens: *const u32,
    pub token_count: usize,
    pub prompt_tokens: u64,
    pub reused_tokens: u64,
    pub adapter_from: i64,
    pub first_token_ms: f64,
    pub decode_ms: f64,
    pub drift: f32,
    pub durable: u32,
}

// SAFETY: all of them are `repr(C)`, begin with a `u32` that is their size, and are made of numbers and of pointers that are looked
// at before they are used.
unsafe impl Record for OpenOptions {}
// SAFETY: see above.
unsafe impl Record for RestoredContexts {}
// SAFETY: see above.
unsafe impl Record for AdapterFacts {}
// SAFETY: see above.
unsafe impl Record for MemoryBytes {}
// SAFETY: see above.
unsafe impl Record for Stats {}
// SAFETY: see above.
unsafe impl Record for CallSettings {}
// SAFETY: see above.
unsafe impl Record for Event {}
// SAFETY: see above.
unsafe impl Record for AnswerFacts {}
