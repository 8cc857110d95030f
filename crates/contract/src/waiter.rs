//! Waiting for a device from another thread than the one that uses its backend. What it computed is fetched elsewhere.

use std::fmt;
use std::sync::Arc;

/// Waits until a device has run what it was given. Clones wait for the same device, and outlive its backend.
#[derive(Clone)]
pub struct Waiter(Arc<dyn Fn() + Send + Sync>);

impl Waiter {
    /// Waits by `wait`, which returns too where the device fails: whoever uses the backend next is told.
    pub fn new(wait: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wait))
    }

    /// Returns once everything that was submitted before the call has run.
    pub fn wait(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}
