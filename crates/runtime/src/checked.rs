//! Checks of records in files: the beginning of a BLAKE3 digest.

/// Bytes of a check.
pub const CHECK: usize = 8;

/// The check of some bytes, in a row.
pub fn check(parts: &[&[u8]]) -> [u8; CHECK] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut check = [0; CHECK];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK]);
    check
}
