//! Silent contamination: pages of one context that answer for another. Each case that other systems had, and each fault
//! that random events found in this one, alone and as small as it gets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../naive/world/device.rs"]
mod device;
mod endings;
mod identity;
mod invocations;
mod loss;
mod owners;
mod refusals;
mod residence;
mod rig;
mod tails;
