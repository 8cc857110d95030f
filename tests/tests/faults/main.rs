//! Files that are damaged, hostile or meant for another engine: refused by name, within bounded memory and
//! time, and without harm to what is loaded. And devices that fail: what they had goes on elsewhere, or is kept.

mod bad_models;
mod build;
mod failing;
mod fallback;
mod fuzz;
#[cfg(feature = "gpu")]
mod gpu;
mod lossy;
mod measure;
mod memory;
mod mutate;
mod service;

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;
