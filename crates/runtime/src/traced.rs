//! What a subscriber of `tracing` sees of kernels. Spans are where what they measure is done; with nobody listening neither costs
//! more than a look whether somebody is.

use std::time::{Duration, Instant};

use interleaf_contract::DeviceWork;
use tracing::Level;

use crate::Engine;

/// The target of the events that have the times of kernels: one for each kernel of a step, in the order in which they first ran, with the
/// fields `kernel`, `dispatches`, `took_us` and `ago_us`, how long ago it began if each kernel ran by itself, one after the other.
/// At level trace, where [`Engine::set_profiling`] is on.
pub const KERNELS: &str = "interleaf::kernels";

/// Whether somebody wants the times of kernels: then, and with [`Engine::set_profiling`], steps tell them.
#[must_use]
pub fn wants_kernels() -> bool {
    tracing::enabled!(target: KERNELS, Level::TRACE)
}

impl Engine {
    /// Tells of the kernels of steps that were waited for, the last of which began at some time, and keeps what they did for
    /// [`Engine::take_work`].
    pub(crate) fn tell_of_kernels(&mut self, began: Instant) {
        let Some(work) = self.backend.take_work() else { return };
        let mut ago = began.elapsed().as_secs_f64() * 1e6;
        for kernel in &work.kernels {
            let Some(nanoseconds) = kernel.nanoseconds else { continue };
            let took = Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6;
            tracing::trace!(
                target: KERNELS,
                kernel = kernel.kernel,
                dispatches = kernel.dispatches,
                took_us = took,
                ago_us = ago
            );
            ago -= took;
        }
        self.told.get_or_insert_with(DeviceWork::default).add(work);
    }
}
