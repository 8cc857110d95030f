//! The times of a host backend's kernels, where somebody wants them.

use std::time::Duration;

use crate::{DeviceWork, KernelWork};

/// What kernels took since it was asked last; nothing where it is off.
#[derive(Debug, Default)]
pub struct Profile {
    work: Option<DeviceWork>,
}

impl Profile {
    /// Whether kernels are to be timed.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.work.is_some()
    }

    /// Kernels are timed from now on, or no longer.
    pub fn set(&mut self, on: bool) {
        self.work = on.then(DeviceWork::default);
    }

    /// Adds what kernels of a step took, one after the other, by their stems.
    pub fn add(&mut self, times: impl IntoIterator<Item = (&'static str, Duration)>) {
        let Some(work) = &mut self.work else { return };
        let kernel = |(kernel, took): (_, Duration)| KernelWork {
            kernel,
            dispatches: 1,
            loaded: 0,
            nanoseconds: Some(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
        };
        let kernels = times.into_iter().map(kernel);
        kernels.for_each(|kernel| work.add(DeviceWork { submits: 0, kernels: vec![kernel] }));
    }

    /// What they took since this was last called; `None` while it is off.
    pub fn take(&mut self) -> Option<DeviceWork> {
        self.work.as_mut().map(std::mem::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_added_up_by_kernel_until_they_are_taken() {
        let micros = Duration::from_micros;
        let mut profile = Profile::default();
        profile.add([("embed", micros(1))]);
        assert_eq!(profile.take(), None);
        profile.set(true);
        profile.add([("embed", micros(1)), ("rope", micros(2)), ("embed", micros(3))]);
        let work = profile.take().expect("it is on");
        let kernels: Vec<_> = work.kernels.iter().map(|k| (k.kernel, k.dispatches, k.nanoseconds)).collect();
        assert_eq!(kernels, [("embed", 2, Some(4000)), ("rope", 1, Some(2000))]);
        assert_eq!(profile.take(), Some(DeviceWork::default()));
        profile.set(false);
        assert_eq!(profile.take(), None);
    }
}
