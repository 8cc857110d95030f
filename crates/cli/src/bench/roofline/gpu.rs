//! What a GPU does at best, as it is reported.

use interleaf_runtime::DevicePeaks;
use serde::Serialize;

use crate::table;

/// Bytes below which a device had no room for what the probe would read.
const FULL: u64 = 1 << 30;

/// The best that was seen of a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Peaks {
    /// Adapter, API and driver.
    pub device: String,
    /// What it measured.
    #[serde(flatten, with = "Fields")]
    pub peaks: DevicePeaks,
}

/// The fields of [`DevicePeaks`], whose crate serialises nothing.
#[derive(Serialize)]
#[serde(remote = "DevicePeaks")]
struct Fields {
    read_bytes: u64,
    read_bytes_per_second: f64,
    f32_operations_per_second: f64,
    step_seconds: f64,
    dispatch_seconds: f64,
}

impl Peaks {
    /// One line.
    pub fn line(&self) -> String {
        let DevicePeaks { read_bytes, step_seconds, dispatch_seconds, .. } = self.peaks;
        let room = if read_bytes < FULL { ", for which alone there was room" } else { "" };
        format!(
            "roofline of {}: reads {:.1} GB/s over {}{room}, f32 {:.1} GFLOP/s; an empty step takes {:.1} µs, each \
             further dispatch {:.2} µs",
            self.device,
            self.peaks.read_bytes_per_second / 1e9,
            table::bytes(read_bytes),
            self.peaks.f32_operations_per_second / 1e9,
            1e6 * step_seconds,
            1e6 * dispatch_seconds
        )
    }
}
