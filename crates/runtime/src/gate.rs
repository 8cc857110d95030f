//! Whether the GPU may be used: systems take it from apps in the background and end those that go on.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Suspends and resumes the GPU, from any thread. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct GpuGate {
    inner: Arc<(Mutex<bool>, Condvar)>,
}

impl GpuGate {
    /// Returns once the step or upload that runs now has ended; from then on nothing is given to the GPU. Answers under way
    /// wait, and say so by [`Event::Suspended`](crate::Event::Suspended).
    pub fn suspend(&self) {
        self.set(true);
    }

    /// Lets answers go on.
    pub fn resume(&self) {
        self.set(false);
    }

    /// Whether the GPU is suspended.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the gate open for one step or upload; `None` while the GPU is suspended. Who suspends it waits for the end.
    pub(crate) fn enter(&self) -> Option<MutexGuard<'_, bool>> {
        let suspended = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!*suspended).then_some(suspended)
    }

    /// Waits until it is not.
    pub(crate) fn wait(&self) {
        let (suspended, resumed) = &*self.inner;
        let mut suspended = suspended.lock().unwrap_or_else(PoisonError::into_inner);
        while *suspended {
            suspended = resumed.wait(suspended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn set(&self, to: bool) {
        let (suspended, resumed) = &*self.inner;
        *suspended.lock().unwrap_or_else(PoisonError::into_inner) = to;
        resumed.notify_all();
    }
}
