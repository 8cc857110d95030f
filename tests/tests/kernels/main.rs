//! Every kernel of every backend against the reference, by stem.

mod add;
mod arrive;
mod attention_mass;
mod chained;
mod coded_attention;
#[cfg(feature = "gpu")]
mod coded_loads;
mod drop_projections;
mod embed;
mod fused;
mod in_flight;
mod kv_append;
mod kv_read;
mod lora_matmul;
mod page_codec;
mod page_copy;
mod page_tables;
mod paged_attention;
mod refusals;
mod rms_norm;
mod rope;
mod sample;
mod softcap;
mod swiglu;
