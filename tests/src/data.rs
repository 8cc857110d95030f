//! Seeded numbers and matrices. Quantised matrices are drawn as blocks, so that no quantiser is under
//! test here.

use half::{bf16, f16};
use interleaf_contract::{BlockQ4_0, BlockQ8_0, Bytes, Dtype, Matrix, QUANT_BLOCK};
use interleaf_kernels_ref::weight::decode_row;

/// A SplitMix64 stream (Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678))
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in −1 ..= 1.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// Bytes in words, so that they are aligned for every dtype.
pub fn aligned(bytes: &[u8]) -> Bytes {
    struct Words(Vec<u32>, usize);
    impl AsRef<[u8]> for Words {
        fn as_ref(&self) -> &[u8] {
            &bytemuck::cast_slice(&self.0)[..self.1]
        }
    }
    let mut words = vec![0u32; bytes.len().div_ceil(4)];
    bytemuck::cast_slice_mut::<u32, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(Words(words, bytes.len()))
}

/// A random matrix with values of about −1 ..= 1.
pub fn matrix(name: &str, dtype: Dtype, rows: usize, cols: usize, random: &mut Random) -> Matrix {
    let bytes = match dtype {
        Dtype::F32 => bytemuck::cast_slice(&random.values(rows * cols)).to_vec(),
        Dtype::F16 => {
            random.values(rows * cols).iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
        }
        Dtype::Bf16 => {
            random.values(rows * cols).iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()
        }
        Dtype::Q8_0 => (0..rows * cols / QUANT_BLOCK)
            .flat_map(|_| {
                let d = f16::from_f32(random.value().abs() / 127.0).to_bits();
                let block = BlockQ8_0 { d, qs: std::array::from_fn(|_| random.bits() as i8) };
                bytemuck::bytes_of(&block).to_vec()
            })
            .collect(),
        Dtype::Q4_0 => (0..rows * cols / QUANT_BLOCK)
            .flat_map(|_| {
                let d = f16::from_f32(random.value() / 8.0).to_bits();
                let block = BlockQ4_0 { d, qs: std::array::from_fn(|_| random.bits() as u8) };
                bytemuck::bytes_of(&block).to_vec()
            })
            .collect(),
    };
    Matrix::new(name, dtype, rows, cols, aligned(&bytes)).expect("a well-formed matrix")
}

/// The same matrix as f32 magnitudes: what error bounds are made of.
pub fn magnitudes(m: &Matrix) -> Matrix {
    let mut values = vec![0.0; m.rows() * m.cols()];
    for (row, out) in values.chunks_exact_mut(m.cols().max(1)).enumerate() {
        decode_row(m, row, out);
    }
    values.iter_mut().for_each(|v| *v = v.abs());
    Matrix::new(m.name(), Dtype::F32, m.rows(), m.cols(), aligned(bytemuck::cast_slice(&values)))
        .expect("the same shape")
}
