//! The harness of the kernel tests: seeded data in every dtype, one case run on any backend through the
//! `Backend` trait, and the tolerances that a kernel is held to.

pub mod attention;
pub mod backends;
pub mod data;
pub mod lora;
pub mod single;
pub mod tolerance;
