//! What a service has counted, in words: times by their quantiles, chunks by where they went.

use std::time::Duration;

use interleaf_runtime::{AdapterStats, Histogram, SwapStats};

/// `half within 5.20 ms, 95 % within 8.12 ms, 99 % within 8.40 ms (of 12)`.
pub fn times(of: &Histogram) -> String {
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    let within = |share| of.quantile(share).map_or_else(String::new, ms);
    match of.count() {
        0 => "none so far".into(),
        count => format!(
            "half within {}, 95 % within {}, 99 % within {} (of {count})",
            within(0.5),
            within(0.95),
            within(0.99)
        ),
    }
}

/// How many there are, and how often their weights came and went.
pub fn adapters(of: &AdapterStats) -> String {
    let AdapterStats { registered, loaded, loads, unloads } = of;
    format!(
        "{registered} registered, {loaded} of them loaded; {loads} loads and {unloads} unloads by the pool"
    )
}

/// What went between memory and the file, in chunks.
pub fn swap(of: Option<&SwapStats>) -> String {
    let Some(SwapStats { written, read, recomputed, unwritten, damaged, restored }) = of else {
        return "none".into();
    };
    let mut said = format!("{written} chunks written, {read} read, {recomputed} computed again");
    for (count, what) in [(restored, "of an earlier run"), (unwritten, "not written"), (damaged, "damaged")] {
        if *count > 0 {
            said += &format!(", {count} {what}");
        }
    }
    said
}
