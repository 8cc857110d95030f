//! How the keys of encoded pages were read, for reports.

use std::time::Duration;

use interleaf_runtime::{KeyReads, KeyReason, KeyTimes};
use serde::Serialize;

use crate::table::bytes;

/// How an answer read the keys of the encoded chunks that it found.
#[derive(Debug, Clone, Serialize)]
pub struct KeyRow {
    /// Chunks whose keys were read where they are.
    pub in_place: usize,
    /// Chunks whose keys were read as exact pages.
    pub materialised: usize,
    /// Of these, how many were read in place before the end.
    pub given_up: usize,
    /// Bytes of exact keys beside encoded ones when the answer began.
    pub bytes: u64,
    /// Why they were read so.
    pub reason: &'static str,
    /// What was measured of chunks like these.
    pub times: Option<TimeRow>,
}

/// What reading keys takes.
#[derive(Debug, Clone, Serialize)]
pub struct TimeRow {
    /// How many chunks were measured.
    pub chunks: usize,
    /// A generated token's attention in all layers, keys being read in place.
    pub in_place_ms: f64,
    /// The same over materialised keys.
    pub materialised_ms: f64,
    /// To materialise them.
    pub making_ms: f64,
}

impl From<KeyReads> for KeyRow {
    fn from(keys: KeyReads) -> Self {
        let KeyReads { in_place, materialised, given_up, bytes, reason, times } = keys;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let times = times.map(|KeyTimes { chunks, in_place, materialised, making }| TimeRow {
            chunks,
            in_place_ms: ms(in_place),
            materialised_ms: ms(materialised),
            making_ms: ms(making),
        });
        Self { in_place, materialised, given_up, bytes, reason: reason.name(), times }
    }
}

/// One line; `None` where nothing encoded was read.
pub fn line(keys: KeyReads) -> Option<String> {
    let KeyRow { in_place, materialised, given_up, bytes: held, times, .. } = keys.into();
    let given_up = if given_up > 0 { format!(", {given_up} of them not to the end") } else { String::new() };
    let why = match keys.reason {
        KeyReason::NothingEncoded => return None,
        KeyReason::Pinned => "as asked for",
        KeyReason::FewTokens => "too few tokens to measure which is faster",
        KeyReason::NoRoom => "no room for exact ones",
        KeyReason::Shared => "the anchor is read once for several rows",
        KeyReason::AlreadyThere => "others had exact ones made already",
        KeyReason::Measured => "by their times",
    };
    let times = times.map_or_else(String::new, |TimeRow { chunks, in_place_ms, materialised_ms, making_ms }| {
        format!(
            "; measured over {chunks} chunks: {in_place_ms:.3} ms of attention per token in place, {materialised_ms:.3} ms materialised, {making_ms:.3} ms to make"
        )
    });
    Some(format!(
        "keys of encoded chunks: {in_place} read in place, {materialised} materialised ({}{given_up}), {why}{times}",
        bytes(held)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_is_said_in_one_line_where_anything_encoded_was_read() {
        assert_eq!(line(KeyReads::default()), None);
        let ms = Duration::from_millis;
        let times = KeyTimes { chunks: 9, in_place: ms(3), materialised: ms(2), making: ms(1) };
        let keys = KeyReads {
            in_place: 1,
            materialised: 8,
            given_up: 2,
            bytes: 4096,
            reason: KeyReason::Measured,
            times: Some(times),
        };
        let expected = "keys of encoded chunks: 1 read in place, 8 materialised (4.0 KiB, 2 of them not to the end), by their times; measured over 9 chunks: 3.000 ms of attention per token in place, 2.000 ms materialised, 1.000 ms to make";
        assert_eq!(line(keys).as_deref(), Some(expected));
        let pinned = KeyReads { reason: KeyReason::Pinned, times: None, ..keys };
        assert!(line(pinned).is_some_and(|line| line.ends_with("to the end), as asked for")));
        let shared = KeyReads { in_place: 9, reason: KeyReason::Shared, ..KeyReads::default() };
        let expected = "keys of encoded chunks: 9 read in place, 0 materialised (0 B), the anchor is read once for several rows";
        assert_eq!(line(shared).as_deref(), Some(expected));
        assert_eq!(KeyRow::from(shared).reason, "shared");
    }
}
