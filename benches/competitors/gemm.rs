//! The products of the `gemm` crate.

use gemm::Parallelism;
use interleaf_contract::Matrix;

use crate::rig;

/// An element of both factors and of the result.
pub trait Element: Copy + 'static {
    const ZERO: Self;
    const ONE: Self;
    /// The ways for weights to lie in which the work is the same as ours.
    const LAYOUTS: &[Layout];

    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
    fn from_le(bytes: &[u8]) -> Self;
    /// ε times what a product may be off by, as a share of the magnitudes.
    fn roundings() -> f64;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LAYOUTS: &[Layout] = &[Layout::Stored, Layout::Turned];

    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn from_le(bytes: &[u8]) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("four bytes"))
    }

    fn roundings() -> f64 {
        rig::f32_roundings()
    }
}

impl Element for gemm::f16 {
    const ZERO: Self = Self::ZERO;
    const ONE: Self = Self::ONE;
    // Turned, a single row is added up in f16: one rounding for each of its inputs.
    const LAYOUTS: &[Layout] = &[Layout::Stored];

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }

    fn from_le(bytes: &[u8]) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("two bytes"))
    }

    fn roundings() -> f64 {
        // Sums are f32, but what is added up so far goes through the result, in f16, after each part of the
        // inputs; a part is 512 or more. Each time it loses half of the last of 11 bits.
        let stores = rig::HIDDEN.div_ceil(512) as f64;
        rig::f32_roundings() + stores * 2f64.powi(-11) / f64::from(f32::EPSILON)
    }
}

/// Which way weights lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// An output's inputs side by side, as in files.
    Stored,
    /// An input's outputs side by side, as one might lay them once while loading.
    Turned,
}

impl Layout {
    /// The name of a row.
    pub fn label(self) -> &'static str {
        match self {
            Self::Stored => "gemm",
            Self::Turned => "gemm, turned weights",
        }
    }
}

/// Weights of a layer, outputs × inputs.
pub struct Weights<E> {
    values: Vec<E>,
    outputs: usize,
    inputs: usize,
    layout: Layout,
}

impl<E: Element> Weights<E> {
    /// Weights of the element's own dtype.
    pub fn new(matrix: &Matrix, layout: Layout) -> Self {
        let (outputs, inputs) = (matrix.rows(), matrix.cols());
        let stored: Vec<E> = matrix.data().chunks_exact(size_of::<E>()).map(E::from_le).collect();
        assert_eq!(stored.len(), outputs * inputs, "weights of another dtype");
        let values = match layout {
            Layout::Stored => stored,
            Layout::Turned => (0..inputs).flat_map(|k| stored[k..].iter().step_by(inputs).copied()).collect(),
        };
        Self { values, outputs, inputs, layout }
    }

    /// `y = x·Wᵀ`, or `y += x·Wᵀ`: as many rows as fit.
    pub fn product(&self, x: &[E], y: &mut [E], add: bool) {
        let (n, k) = (self.outputs, self.inputs);
        let m = x.len() / k;
        assert_eq!((x.len(), y.len()), (m * k, m * n), "whole rows, as many of y as of x");
        let (w_per_input, w_per_output) = match self.layout {
            Layout::Stored => (1, k),
            Layout::Turned => (n, 1),
        };
        let parallelism = match crate::threads() {
            1 => Parallelism::None,
            threads => Parallelism::Rayon(threads),
        };
        // SAFETY: x is m × k, y is m × n and the weights are n × k or turned, whole and of these strides: the
        // first two by the assertion above, the weights by `new`.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                y.as_mut_ptr(),
                1,
                n as isize,
                add,
                x.as_ptr(),
                1,
                k as isize,
                self.values.as_ptr(),
                w_per_output as isize,
                w_per_input as isize,
                E::ONE,
                E::ONE,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}
