//! Whether the GPU may be used: systems take it from apps in the background and end those that go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use interleaf_contract::Waiter;

/// Suspends and resumes the GPU, from any thread. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct GpuGate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Set before `given` is asked for: a device that is given one thing after another would have it again before whoever waits
    /// for it is awake.
    suspended: AtomicBool,
    /// Held while the GPU is given something.
    given: Mutex<()>,
    resumed: Condvar,
    /// For the steps that are left under way while nobody holds the gate; `None` where none are.
    under_way: Option<Waiter>,
}

impl GpuGate {
    /// An open gate before a device.
    pub(crate) fn new(under_way: Option<Waiter>) -> Self {
        let (suspended, given, resumed) = (AtomicBool::new(false), Mutex::new(()), Condvar::new());
        Self { inner: Arc::new(Inner { suspended, given, resumed, under_way }) }
    }

    /// Returns once nothing runs on the GPU: what is given to it now has been, and that has ended; from then on nothing is
    /// given to it. What it computed is kept. Answers under way wait, and say so by
    /// [`Event::Suspended`](crate::Event::Suspended).
    pub fn suspend(&self) {
        self.inner.suspended.store(true, Ordering::SeqCst);
        drop(self.lock());
        // Not under the lock: this may be the thread that the answers are told on.
        if let Some(under_way) = &self.inner.under_way {
            under_way.wait();
        }
    }

    /// Lets answers go on.
    pub fn resume(&self) {
        let given = self.lock();
        self.inner.suspended.store(false, Ordering::SeqCst);
        drop(given);
        self.inner.resumed.notify_all();
    }

    /// Whether the GPU is suspended.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.inner.suspended.load(Ordering::SeqCst)
    }

    /// Whether steps may be left under way: whoever suspends the GPU can wait for them.
    pub(crate) fn leaves_steps_under_way(&self) -> bool {
        self.inner.under_way.is_some()
    }

    /// Holds the gate open while the GPU is given something; `None` while it is suspended. Who suspends it waits for the
    /// end.
    pub(crate) fn enter(&self) -> Option<MutexGuard<'_, ()>> {
        let given = self.lock();
        (!self.is_suspended()).then_some(given)
    }

    /// Waits until it is not.
    pub(crate) fn wait(&self) {
        let mut given = self.lock();
        while self.is_suspended() {
            given = self.inner.resumed.wait(given).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.inner.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn nothing_is_given_to_the_device_once_somebody_wants_it_suspended() {
        let gate = GpuGate::new(None);
        let given = gate.enter().expect("it is open");
        thread::scope(|scope| {
            scope.spawn(|| gate.suspend());
            while !gate.is_suspended() {
                thread::yield_now();
            }
            drop(given);
            // Whether or not whoever waits for the end of what was given is awake.
            assert!(gate.enter().is_none());
        });
        gate.resume();
        gate.wait();
        assert!(gate.enter().is_some() && !gate.is_suspended());
    }
}
