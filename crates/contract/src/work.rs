//! What a device did for the steps it was given, as far as it counts.

/// One kernel's share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelWork {
    /// The kernel's name.
    pub kernel: &'static str,
    /// How often it was dispatched.
    pub dispatches: u64,
    /// Bytes that it loaded from device memory by its own cost function: what is read again counts again. 0 where that is not counted.
    pub loaded: u64,
    /// Its time on the device in nanoseconds, where that is measured. Of a host's kernels it is the first worker's, what it waits for the
    /// others included.
    pub nanoseconds: Option<u64>,
}

/// What a device did since it was asked last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceWork {
    /// Submissions to the device's queue.
    pub submits: u64,
    /// Kernels in the order of their first dispatch.
    pub kernels: Vec<KernelWork>,
}

impl DeviceWork {
    /// Adds what was done at another time.
    pub fn add(&mut self, other: Self) {
        self.submits += other.submits;
        for more in other.kernels {
            match self.kernels.iter_mut().find(|k| k.kernel == more.kernel) {
                Some(kernel) => {
                    kernel.dispatches += more.dispatches;
                    kernel.loaded += more.loaded;
                    kernel.nanoseconds = match (kernel.nanoseconds, more.nanoseconds) {
                        (Some(a), Some(b)) => Some(a + b),
                        (a, b) => a.or(b),
                    };
                }
                None => self.kernels.push(more),
            }
        }
    }

    /// Dispatches of all kernels.
    #[must_use]
    pub fn dispatches(&self) -> u64 {
        self.kernels.iter().map(|k| k.dispatches).sum()
    }

    /// Bytes that all kernels loaded.
    #[must_use]
    pub fn loaded(&self) -> u64 {
        self.kernels.iter().map(|k| k.loaded).sum()
    }
}
