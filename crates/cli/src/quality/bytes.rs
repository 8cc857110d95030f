//! What a codec's bytes come to for a token, counted in the ways that they are compared.

use interleaf_calibrate::Measured;
use serde::Serialize;

/// Tokens that a calibrated basis is spread over.
pub const BASIS_TOKENS: usize = 1024;

/// Whose caches of a prefix are counted together.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    /// What a token takes unshared, as f16.
    pub f16_bytes: usize,
    /// How many adapters share the base's cache.
    pub adapters: usize,
}

/// Bytes for a token, and for an element of its cache.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Bytes {
    /// Stored for this adapter alone.
    pub bytes_per_token: f64,
    pub bytes_per_element: f64,
    pub bits: f64,
    /// Over the same as f16.
    pub ratio_to_f16: f64,
    /// The same, and what the pages of all tokens are decoded with, spread over 1024 tokens.
    pub bytes_per_token_with_basis: f64,
    pub bytes_per_element_with_basis: f64,
    pub ratio_to_f16_with_basis: f64,
    /// Of the base's cache, where it is read.
    pub base_bytes_per_token: f64,
    /// With the base's cache, where it is read: as if no other adapter shared it.
    pub bytes_per_token_with_base: f64,
    pub bits_with_base: f64,
    /// The mean over the base and the adapters of this report, basis included: with one cache of the base's that all of them
    /// read, or with one for each in a codec that stands alone.
    pub bytes_per_token_shared: f64,
    pub bytes_per_element_shared: f64,
    /// Over as many f16 caches.
    pub ratio_to_f16_shared: f64,
}

impl Bytes {
    pub fn new(measured: &Measured, Sharing { f16_bytes, adapters }: Sharing) -> Self {
        let (bytes, base, f16) = (measured.bytes_per_token, measured.base_bytes_per_token, f16_bytes as f64);
        let with_basis = bytes + measured.basis_bytes as f64 / BASIS_TOKENS as f64;
        let of_base = if measured.codec.is_over_base() { base } else { bytes };
        let shared = (of_base + adapters as f64 * with_basis) / (adapters + 1) as f64;
        let per_element = |bytes: f64| 2.0 * bytes / f16;
        Self {
            bytes_per_token: bytes,
            bytes_per_element: per_element(bytes),
            bits: 8.0 * per_element(bytes),
            ratio_to_f16: bytes / f16,
            bytes_per_token_with_basis: with_basis,
            bytes_per_element_with_basis: per_element(with_basis),
            ratio_to_f16_with_basis: with_basis / f16,
            base_bytes_per_token: base,
            bytes_per_token_with_base: bytes + base,
            bits_with_base: 8.0 * per_element(bytes + base),
            bytes_per_token_shared: shared,
            bytes_per_element_shared: per_element(shared),
            ratio_to_f16_shared: shared / f16,
        }
    }
}

#[cfg(test)]
mod tests {
    use interleaf_calibrate::{Codec, Divergence};

    use super::*;

    fn bytes(codec: &str, stored: f64, base: f64, basis_bytes: usize) -> Bytes {
        let measured = Measured {
            codec: codec.parse::<Codec>().unwrap(),
            bytes_per_token: stored,
            base_bytes_per_token: base,
            basis_bytes,
            divergence: Divergence { kl: Vec::new(), same_top: 1.0, nll: [1.0; 2] },
            errors: Vec::new(),
            error_left: 0.0,
        };
        Bytes::new(&measured, Sharing { f16_bytes: 3072, adapters: 6 })
    }

    #[test]
    fn a_base_is_counted_once_and_a_basis_for_each_adapter() {
        let found = bytes("low-rank-16-int4", 120.0, 1614.0, 49_152);
        assert_eq!(found.bytes_per_token_with_basis, 120.0 + 48.0);
        assert_eq!(found.bytes_per_token_with_base, 1734.0);
        assert_eq!(found.bytes_per_token_shared, (1614.0 + 6.0 * 168.0) / 7.0);
        assert_eq!((found.bytes_per_element, found.bits), (120.0 / 1536.0, 0.625));
    }

    #[test]
    fn what_stands_alone_is_not_shared() {
        let found = bytes("q8", 1614.0, 0.0, 0);
        assert_eq!(found.bytes_per_token_shared, 1614.0);
        assert_eq!(found.bytes_per_token_with_base, 1614.0);
    }
}
