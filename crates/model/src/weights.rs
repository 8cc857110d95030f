//! From a tensor in a file to the matrix or vector that a backend is given: mapped as it is stored, or
//! converted row by row.
//!
//! One matrix is converted at a time and its source stays a mapping, so loading never holds two copies
//! of the weights.

use bytemuck::{NoUninit, Pod};
use half::{bf16, f16};
use interleaf_contract::{BlockQ4_0, BlockQ8_0, Bytes, Dtype, Matrix, QUANT_BLOCK};
use rayon::prelude::*;

use crate::tensor_data::TensorData;
use crate::tensor_file::{Float, Tensor};
use crate::{ModelError, quantise};

/// What weight matrices are converted to at load. Norms and biases are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightFormat {
    /// As in the file: no conversion and, where the file is mapped, no copy.
    #[default]
    Stored,
    /// IEEE binary16, rounded to nearest, ties to even.
    F16,
    /// bfloat16, rounded to nearest, ties to even.
    Bf16,
    /// GGUF's Q8_0. A matrix whose rows are not a multiple of 32 long stays as stored.
    Q8_0,
    /// GGUF's Q4_0. A matrix whose rows are not a multiple of 32 long stays as stored.
    Q4_0,
}

impl WeightFormat {
    /// Bytes that a row of so many columns is kept in; `None` where that is what it is stored in.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        self.target(cols).and_then(|dtype| dtype.row_bytes(cols))
    }

    /// The dtype to convert to, if there is a conversion to be done for rows of `cols`.
    fn target(self, cols: usize) -> Option<Dtype> {
        match self {
            Self::Stored => None,
            Self::F16 => Some(Dtype::F16),
            Self::Bf16 => Some(Dtype::Bf16),
            Self::Q8_0 => Some(Dtype::Q8_0).filter(|_| cols.is_multiple_of(QUANT_BLOCK)),
            Self::Q4_0 => Some(Dtype::Q4_0).filter(|_| cols.is_multiple_of(QUANT_BLOCK)),
        }
    }
}

/// Elements that are searched for infinities and NaN by one task.
const CHECKED_TOGETHER: usize = 1 << 16;

/// Values of their own type, so that their bytes are aligned for it.
struct Aligned<T>(Vec<T>);

impl<T: NoUninit> AsRef<[u8]> for Aligned<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Tensor<'_> {
    /// A two-dimensional tensor in a format.
    ///
    /// # Errors
    /// If the elements are no floats, or a value or a block's scale does not fit the format.
    pub fn matrix(&self, format: WeightFormat) -> Result<Matrix, ModelError> {
        let (_, cols) = self.rows_and_cols()?;
        let stored = self.float()?.dtype();
        self.matrix_as(format.target(cols).unwrap_or(stored))
    }

    /// A two-dimensional LoRA factor, checked for infinities and NaN: f32 and f16 as stored, bf16
    /// widened to f32, which loses nothing.
    pub fn factor(&self) -> Result<Matrix, ModelError> {
        let kept = match self.float()? {
            Float::F16 => Dtype::F16,
            Float::F32 | Float::Bf16 => Dtype::F32,
        };
        let matrix = self.matrix_as(kept)?;
        self.check_finite()?;
        Ok(matrix)
    }

    /// All elements, row-major, as f32, checked for infinities and NaN.
    pub fn vector(&self) -> Result<Vec<f32>, ModelError> {
        self.check_finite()?;
        Ok(floats(self.float()?, &self.data.bytes()).collect())
    }

    fn matrix_as(&self, dtype: Dtype) -> Result<Matrix, ModelError> {
        let (rows, cols) = self.rows_and_cols()?;
        let data = if dtype == self.float()?.dtype() {
            aligned(&self.data.bytes(), dtype)
        } else {
            match dtype {
                Dtype::F32 => self.convert(dtype, cols, |row, out: &mut [f32]| {
                    out.copy_from_slice(row);
                    true
                }),
                Dtype::F16 => self.convert(dtype, cols, |row, out: &mut [f16]| {
                    round(row, out, f16::from_f32, f16::is_finite)
                }),
                Dtype::Bf16 => self.convert(dtype, cols, |row, out: &mut [bf16]| {
                    round(row, out, bf16::from_f32, bf16::is_finite)
                }),
                Dtype::Q8_0 => self.convert::<BlockQ8_0>(dtype, cols / QUANT_BLOCK, quantise::q8_0),
                Dtype::Q4_0 => self.convert::<BlockQ4_0>(dtype, cols / QUANT_BLOCK, quantise::q4_0),
            }?
        };
        Matrix::new(self.name, dtype, rows, cols, data)
            .map_err(|source| ModelError::Matrix { file: self.file.into(), source })
    }

    /// Converts every row with `convert`, which is false where the row does not fit. `units` is the
    /// number of `T` in a converted row.
    fn convert<T: Pod + Send + Sync>(
        &self,
        format: Dtype,
        units: usize,
        convert: impl Fn(&[f32], &mut [T]) -> bool + Sync,
    ) -> Result<Bytes, ModelError> {
        let (rows, cols) = self.rows_and_cols()?;
        let stored = self.float()?;
        let row_bytes = cols * stored.dtype().block_bytes();
        let mut out = vec![T::zeroed(); rows * units];
        // Rows of nothing would make chunks of nothing, which rayon does not allow.
        out.par_chunks_mut(units.max(1)).enumerate().try_for_each_init(
            || vec![0.0f32; cols],
            |values, (row, converted)| {
                match &self.data {
                    TensorData::Stored(bytes) => {
                        let row = floats(stored, &bytes[row * row_bytes..(row + 1) * row_bytes]);
                        values.iter_mut().zip(row).for_each(|(v, x)| *v = x);
                    }
                    TensorData::Drawn(drawn) => drawn.fill(row * cols, values),
                }
                if let Some(col) = values.iter().position(|v| !v.is_finite()) {
                    return Err(self.non_finite(row * cols + col, values[col]));
                }
                if convert(values, converted) {
                    return Ok(());
                }
                let magnitude = values.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
                let (file, tensor) = (self.file.into(), self.name.into());
                let row = self.first.checked_div(cols).unwrap_or(0) + row;
                Err(ModelError::Overflow { file, tensor, row, magnitude, format })
            },
        )?;
        Ok(Bytes::from_owner(Aligned(out)))
    }

    fn rows_and_cols(&self) -> Result<(usize, usize), ModelError> {
        match *self.shape {
            [rows, cols] => Ok((rows, cols)),
            _ => Err(self.refusal(format!("a matrix has two dimensions, not {}", self.shape.len()))),
        }
    }

    /// Checks every element for infinities and NaN.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        let stored = self.float()?;
        let bytes = CHECKED_TOGETHER * stored.dtype().block_bytes();
        let data = self.data.bytes();
        let found = data.par_chunks(bytes).enumerate().find_map_first(|(chunk, bytes)| {
            let (index, value) = floats(stored, bytes).enumerate().find(|(_, v)| !v.is_finite())?;
            Some(self.non_finite(chunk * CHECKED_TOGETHER + index, value))
        });
        found.map_or(Ok(()), Err)
    }

    /// The error for the element at an index here.
    fn non_finite(&self, index: usize, value: f32) -> ModelError {
        let (file, tensor) = (self.file.into(), self.name.into());
        ModelError::NonFinite { file, tensor, index: self.first + index, value }
    }
}

/// Rounds a row of finite values; false if one became infinite.
fn round<T: Copy>(row: &[f32], out: &mut [T], to: fn(f32) -> T, is_finite: fn(T) -> bool) -> bool {
    row.iter().zip(out).all(|(v, o)| {
        *o = to(*v);
        is_finite(*o)
    })
}

/// Little-endian floats as f32, from bytes of any alignment.
fn floats(float: Float, bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(float.dtype().block_bytes()).map(move |b| match float {
        Float::F32 => bytemuck::pod_read_unaligned(b),
        Float::F16 => bytemuck::pod_read_unaligned::<f16>(b).to_f32(),
        Float::Bf16 => bytemuck::pod_read_unaligned::<bf16>(b).to_f32(),
    })
}

/// The same bytes where they are aligned for `dtype`, else a copy that is.
fn aligned(data: &Bytes, dtype: Dtype) -> Bytes {
    if (data.as_ptr() as usize).is_multiple_of(dtype.alignment()) {
        return data.clone();
    }
    let mut words = vec![0u32; data.len().div_ceil(size_of::<u32>())];
    bytemuck::cast_slice_mut(&mut words)[..data.len()].copy_from_slice(data);
    Bytes::from_owner(Aligned(words)).slice(..data.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Folder, TestTensor, safetensors_bytes, tensor_bf16, tensor_f16, tensor_f32};
    use crate::tensor_file::TensorFile;

    /// Opens a file whose data starts `shift` bytes off a multiple of 8.
    fn open(tensor: TestTensor, shift: usize) -> (Folder, TensorFile) {
        let plain = safetensors_bytes(&[tensor]);
        let header = u64::from_le_bytes(plain[..8].try_into().unwrap()) as usize;
        let mut bytes = ((header + shift) as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&plain[8..8 + header]);
        bytes.extend(std::iter::repeat_n(b' ', shift));
        bytes.extend_from_slice(&plain[8 + header..]);
        let folder = Folder::new();
        folder.write("t.safetensors", bytes);
        let file = TensorFile::open(&folder.source(), "t.safetensors").unwrap();
        (folder, file)
    }

    fn convert(tensor: TestTensor, format: WeightFormat) -> Result<Matrix, ModelError> {
        let (_folder, file) = open(tensor, 0);
        file.get("w").unwrap().matrix(format)
    }

    const VALUES: [f32; 4] = [1.0, -2.0, 0.5, 3.0];

    #[test]
    fn stored_matrices_are_views_of_the_file() {
        let (_folder, file) = open(tensor_f32("w", &[2, 2], &VALUES), 0);
        let tensor = file.get("w").unwrap();
        let matrix = tensor.matrix(WeightFormat::Stored).unwrap();
        assert_eq!(matrix.data().as_ptr(), tensor.data.bytes().as_ptr());
        assert_eq!((matrix.rows(), matrix.cols(), matrix.dtype()), (2, 2, Dtype::F32));
    }

    #[test]
    fn misaligned_tensors_are_copied_and_read_the_same() {
        for shift in 1..4 {
            let (_folder, file) = open(tensor_f32("w", &[2, 2], &VALUES), shift);
            let tensor = file.get("w").unwrap();
            let matrix = tensor.matrix(WeightFormat::Stored).unwrap();
            assert_ne!(matrix.data().as_ptr(), tensor.data.bytes().as_ptr());
            assert_eq!(*matrix.data(), tensor.data.bytes());
            assert_eq!(tensor.vector().unwrap(), VALUES);
            let f16s = tensor.matrix(WeightFormat::F16).unwrap();
            assert_eq!(
                f16s.row(1),
                [f16::from_f32(0.5).to_le_bytes(), f16::from_f32(3.0).to_le_bytes()].concat()
            );
        }
        // Two bytes off is aligned for f16.
        let (_folder, file) = open(tensor_f16("w", &[2, 2], &VALUES), 2);
        let tensor = file.get("w").unwrap();
        assert_eq!(tensor.matrix(WeightFormat::F16).unwrap().data().as_ptr(), tensor.data.bytes().as_ptr());
    }

    #[test]
    fn sixteen_bits_round_to_nearest_even() {
        // Halfway cases: 1 + 2⁻¹¹ and 1 + 3·2⁻¹¹ lie between f16s, 1 + 2⁻⁸ and 1 + 3·2⁻⁸ between bf16s.
        let halfway = |bits: i32| [1.0 + 2f32.powi(-bits), 1.0 + 3.0 * 2f32.powi(-bits)];
        let f16s = convert(tensor_f32("w", &[1, 2], &halfway(11)), WeightFormat::F16).unwrap();
        assert_eq!(f16s.row(0), [0x00, 0x3c, 0x02, 0x3c]);
        let bf16s = convert(tensor_f32("w", &[1, 2], &halfway(8)), WeightFormat::Bf16).unwrap();
        assert_eq!(bf16s.row(0), [0x80, 0x3f, 0x82, 0x3f]);
        let wide = convert(tensor_bf16("w", &[2, 2], &VALUES), WeightFormat::F16).unwrap();
        assert_eq!(
            wide.row(0),
            [f16::from_f32(1.0).to_le_bytes(), f16::from_f32(-2.0).to_le_bytes()].concat()
        );
    }

    #[test]
    fn rows_are_quantised_apart() {
        let values: Vec<f32> = (0..128).map(|i| (i * 37 % 64) as f32 - 32.0).collect();
        let matrix = convert(tensor_f16("w", &[2, 64], &values), WeightFormat::Q8_0).unwrap();
        assert_eq!((matrix.dtype(), matrix.row_bytes()), (Dtype::Q8_0, 68));
        let mut blocks = [bytemuck::Zeroable::zeroed(); 2];
        assert!(quantise::q8_0(&values[64..], &mut blocks));
        assert_eq!(matrix.row(1), bytemuck::cast_slice::<BlockQ8_0, u8>(&blocks));
        let matrix = convert(tensor_f32("w", &[2, 64], &values), WeightFormat::Q4_0).unwrap();
        let mut blocks = [bytemuck::Zeroable::zeroed(); 2];
        assert!(quantise::q4_0(&values[..64], &mut blocks));
        assert_eq!(matrix.row(0), bytemuck::cast_slice::<BlockQ4_0, u8>(&blocks));
    }

    #[test]
    fn rows_that_fill_no_whole_blocks_stay_as_stored() {
        for format in [WeightFormat::Q8_0, WeightFormat::Q4_0] {
            let matrix = convert(tensor_f16("w", &[2, 2], &VALUES), format).unwrap();
            assert_eq!(matrix.dtype(), Dtype::F16);
        }
    }

    #[test]
    fn values_that_do_not_fit_are_refused_by_name() {
        let error =
            convert(tensor_f32("w", &[2, 2], &[0.0, 0.0, 1.0, -70000.0]), WeightFormat::F16).unwrap_err();
        assert!(
            error.to_string().contains("tensor w, row 1: magnitude 70000 is too large for f16"),
            "{error}"
        );
        let error = convert(tensor_f32("w", &[1, 32], &[1e9; 32]), WeightFormat::Q8_0).unwrap_err();
        assert!(matches!(error, ModelError::Overflow { format: Dtype::Q8_0, .. }), "{error}");
        let error =
            convert(tensor_f32("w", &[2, 2], &[0.0, 0.0, f32::NAN, 1.0]), WeightFormat::Bf16).unwrap_err();
        assert!(matches!(error, ModelError::NonFinite { index: 2, .. }), "{error}");
    }

    #[test]
    fn parts_of_a_matrix_are_views_and_name_the_place_in_the_whole() {
        let values: Vec<f32> = (0..8u8).map(f32::from).collect();
        let (_folder, file) = open(tensor_f32("w", &[4, 2], &values), 0);
        let (whole, part) = (file.get("w").unwrap(), file.get("w").unwrap().rows(1..3));
        let stored = part.matrix(WeightFormat::Stored).unwrap();
        assert_eq!(stored.data().as_ptr(), whole.data.bytes()[8..].as_ptr());
        assert_eq!((stored.rows(), stored.name()), (2, "w"));
        let (converted, all) =
            (part.matrix(WeightFormat::F16).unwrap(), whole.matrix(WeightFormat::F16).unwrap());
        assert_eq!((converted.row(0), converted.row(1)), (all.row(1), all.row(2)));
        let bad = |value| {
            let mut values = values.clone();
            values[5] = value;
            let (_folder, file) = open(tensor_f32("w", &[4, 2], &values), 0);
            file.get("w").unwrap().rows(1..3).matrix(WeightFormat::F16).unwrap_err()
        };
        assert!(matches!(bad(f32::NAN), ModelError::NonFinite { index: 5, .. }));
        assert!(matches!(bad(1e9), ModelError::Overflow { row: 2, .. }));
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found_in_a_large_tensor() {
        let mut values = vec![0.0; 3 * CHECKED_TOGETHER + 7];
        let (_folder, file) = open(tensor_bf16("w", &[values.len()], &values), 0);
        assert!(file.get("w").unwrap().check_finite().is_ok());
        let first = CHECKED_TOGETHER + 3;
        for index in [first, first + 1, values.len() - 1] {
            values[index] = f32::NEG_INFINITY;
        }
        let (_folder, file) = open(tensor_bf16("w", &[values.len()], &values), 0);
        let error = file.get("w").unwrap().check_finite().unwrap_err();
        assert!(matches!(error, ModelError::NonFinite { index, .. } if index == first), "{error}");
    }

    #[test]
    fn factors_keep_or_widen_their_type() {
        for (tensor, dtype) in [
            (tensor_f32("w", &[2, 2], &VALUES), Dtype::F32),
            (tensor_f16("w", &[2, 2], &VALUES), Dtype::F16),
            (tensor_bf16("w", &[2, 2], &VALUES), Dtype::F32),
        ] {
            let (_folder, file) = open(tensor, 0);
            assert_eq!(file.get("w").unwrap().factor().unwrap().dtype(), dtype);
        }
        let (_folder, file) = open(tensor_f16("w", &[1, 2], &[0.0, f32::INFINITY]), 0);
        let error = file.get("w").unwrap().factor().unwrap_err();
        assert!(error.to_string().contains("tensor w has the value inf at element 1"), "{error}");
    }
}
