//! Whether the GPU may be used: systems take it from apps in the background and end those that go on.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use interleaf_contract::Waiter;

/// Suspends and resumes the GPU, from any thread. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct GpuGate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    suspended: Mutex<bool>,
    resumed: Condvar,
    /// For the steps that are left under way while nobody holds the gate; `None` where none are.
    under_way: Option<Waiter>,
}

impl GpuGate {
    /// An open gate before a device.
    pub(crate) fn new(under_way: Option<Waiter>) -> Self {
        Self { inner: Arc::new(Inner { suspended: Mutex::new(false), resumed: Condvar::new(), under_way }) }
    }

    /// Returns once nothing runs on the GPU: what is given to it now has been, and that has ended; from then on nothing is
    /// given to it. What it computed is kept. Answers under way wait, and say so by
    /// [`Event::Suspended`](crate::Event::Suspended).
    pub fn suspend(&self) {
        self.set(true);
        // Not under the lock: this may be the thread that the answers are told on.
        if let Some(under_way) = &self.inner.under_way {
            under_way.wait();
        }
    }

    /// Lets answers go on.
    pub fn resume(&self) {
        self.set(false);
    }

    /// Whether the GPU is suspended.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        *self.lock()
    }

    /// Whether steps may be left under way: whoever suspends the GPU can wait for them.
    pub(crate) fn leaves_steps_under_way(&self) -> bool {
        self.inner.under_way.is_some()
    }

    /// Holds the gate open while the GPU is given something; `None` while it is suspended. Who suspends it waits for the
    /// end.
    pub(crate) fn enter(&self) -> Option<MutexGuard<'_, bool>> {
        let suspended = self.lock();
        (!*suspended).then_some(suspended)
    }

    /// Waits until it is not.
    pub(crate) fn wait(&self) {
        let mut suspended = self.lock();
        while *suspended {
            suspended = self.inner.resumed.wait(suspended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn set(&self, to: bool) {
        *self.lock() = to;
        self.inner.resumed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.inner.suspended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
