//! The harness of the kernel tests: seeded data in every dtype, one case run on any backend through the
//! `Backend` trait, and the tolerances that a kernel is held to; and what files that nobody vouches for are
//! put through.

pub mod adapter_files;
pub mod attention;
pub mod backends;
pub mod coded;
pub mod data;
pub mod fuzz;
pub mod layer;
pub mod layered;
pub mod lora;
pub mod sampling;
pub mod single;
pub mod tolerance;
pub mod watched;
