//! Whether the GPU may be used: systems take it from apps in the background and end those that go on.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Suspends and resumes the GPU, from any thread. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct GpuGate {
    inner: Arc<(Mutex<bool>, Condvar)>,
}

impl GpuGate {
    /// From now on nothing more is given to the GPU. Answers under way wait after the step that runs now, and say so
    /// by [`Event::Suspended`](crate::Event::Suspended).
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
