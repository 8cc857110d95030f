//! Tensors' files that are damaged, or lie about themselves.

use super::{are_refused, sound};
use crate::build::MODEL;

#[test]
fn files_that_are_no_safetensors() {
    let bytes = |change: &dyn Fn(&mut Vec<u8>)| sound().write_with_bytes(change);
    let header = |change: &dyn Fn(&str) -> String| sound().write_with_header(change);
    // The first entry, with its offsets moved.
    let entry = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        header(&move |text| {
            assert!(text.contains(&from), "{from} is not in: {text}");
            text.replacen(&from, &to, 1)
        })
    };
    let first = sound().tensors[0].data.len();
    let second = first + sound().tensors[1].data.len();
    let (names, start) = ([&sound().tensors[0].name, &sound().tensors[1].name].map(Clone::clone), "[0,");
    let again = |text: &str| text.replacen(&format!("\"{}\"", names[1]), &format!("\"{}\"", names[0]), 1);
    are_refused(|| {
        vec![
            ("an empty file", bytes(&Vec::clear), vec![MODEL, "too few"]),
            ("seven bytes", bytes(&|b| b.truncate(7)), vec![MODEL, "too few"]),
            (
                "an absurd length of the header",
                bytes(&|b| b[..8].copy_from_slice(&(1u64 << 60).to_le_bytes())),
                vec![MODEL, "1152921504606846976 bytes long"],
            ),
            (
                "the largest length of the header",
                bytes(&|b| b[..8].fill(0xff)),
                vec![MODEL, "18446744073709551615 bytes long"],
            ),
            ("no header", bytes(&|b| b[..8].fill(0)), vec![MODEL, "header is not valid"]),
            ("a header of noise", bytes(&|b| b[8..].fill(b'x')), vec![MODEL, "header is not valid"]),
            ("a header cut short", header(&|text| text[..99].into()), vec![MODEL, "header is not valid"]),
            ("a header that is a list", header(&|_| "[]".into()), vec![MODEL, "header is not valid"]),
            ("a header in depth", header(&|_| "[".repeat(100_000)), vec![MODEL, "header is not valid"]),
            ("truncated", bytes(&|b| b.truncate(b.len() - 200)), vec![MODEL, "cut short"]),
            ("padded", bytes(&|b| b.push(0)), vec![MODEL, "padded"]),
            (
                "overlapping tensors",
                entry(&format!("[{first},{second}]"), &format!("[{},{second}]", first - 4)),
                vec![MODEL, "does not start where"],
            ),
            (
                "a hole between tensors",
                entry(&format!("[{first},{second}]"), &format!("[{},{second}]", first + 4)),
                vec![MODEL, "does not start where"],
            ),
            ("a hole before them", entry(start, "[4,"), vec![MODEL, "does not start where"]),
            ("an end before its start", entry(&format!("[0,{first}]"), "[8,4]"), vec![MODEL, "tensor"]),
            ("a negative offset", entry(start, "[-1,"), vec![MODEL, "header is not valid", "-1"]),
            (
                "an offset beyond everything",
                entry(&format!("[0,{first}]"), "[0,18446744073709551615]"),
                vec![MODEL, "ends at byte 18446744073709551615"],
            ),
            (
                "a shape that is larger than its data",
                entry("\"shape\":[", "\"shape\":[4294967296,4294967296,"),
                vec![MODEL, "header is not valid"],
            ),
            ("a tensor that is there twice", header(&again), vec![MODEL, "is there twice"]),
            ("an unknown type", entry("\"F32\"", "\"F31\""), vec![MODEL, "header is not valid", "F31"]),
        ]
    });
}
