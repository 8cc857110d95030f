//! What a device does at best, as it measures itself: the roof over what its kernels reach.

/// One look at a device: by the host's clock, from a submission until its answer has been read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DevicePeaks {
    /// Bytes that were read, over and over, for `read_bytes_per_second`: far more than caches hold.
    pub read_bytes: u64,
    /// From device memory.
    pub read_bytes_per_second: f64,
    /// Multiplications and additions of f32 in registers, each counted.
    pub f32_operations_per_second: f64,
    /// Seconds of an empty step: a submission of one dispatch that does nothing to speak of.
    pub step_seconds: f64,
    /// Seconds that each further such dispatch adds, which waits for the one before.
    pub dispatch_seconds: f64,
}

impl DevicePeaks {
    /// The better of two looks, number by number.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let (most, least) = (f64::max, f64::min);
        Self {
            read_bytes: self.read_bytes,
            read_bytes_per_second: most(self.read_bytes_per_second, other.read_bytes_per_second),
            f32_operations_per_second: most(self.f32_operations_per_second, other.f32_operations_per_second),
            step_seconds: least(self.step_seconds, other.step_seconds),
            dispatch_seconds: least(self.dispatch_seconds, other.dispatch_seconds),
        }
    }

    /// Seconds that steps of so many submissions and dispatches take before any of them does something.
    #[must_use]
    pub fn latency(&self, submits: f64, dispatches: f64) -> f64 {
        submits * self.step_seconds + (dispatches - submits).max(0.0) * self.dispatch_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_of_each_counts_and_a_step_has_its_first_dispatch() {
        let look = |n: f64| DevicePeaks {
            read_bytes: 1,
            read_bytes_per_second: n,
            f32_operations_per_second: -n,
            step_seconds: n,
            dispatch_seconds: -n,
        };
        let best = look(4.0).or(&look(7.0));
        assert_eq!((best.read_bytes_per_second, best.f32_operations_per_second), (7.0, -4.0));
        assert_eq!((best.step_seconds, best.dispatch_seconds), (4.0, -7.0));
        let peaks = DevicePeaks { dispatch_seconds: 0.5, ..look(4.0) };
        assert_eq!([peaks.latency(1.0, 1.0), peaks.latency(2.0, 8.0)], [4.0, 11.0]);
    }
}
