//! The products of `candle-core`, on the CPU.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use interleaf_contract::{Dtype, Matrix};

use crate::rig::HIDDEN;

/// Weights in floating point.
pub fn float(matrix: &Matrix) -> Tensor {
    let dtype = match matrix.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        other => panic!("weights in {other}"),
    };
    let shape = [matrix.rows(), matrix.cols()];
    Tensor::from_raw_buffer(matrix.data(), dtype, &shape, &Device::Cpu).expect("a whole matrix")
}

/// The layer over weights in floating point; x is of the same dtype.
pub fn float_product(x: &Tensor, w: &Tensor) -> Tensor {
    x.matmul(&w.t().expect("a matrix")).expect("shapes that fit")
}

/// Quantised weights, as they are multiplied: what candle repacks at the first product is repacked.
pub fn quantised(matrix: &Matrix) -> QMatMul {
    let dtype = match matrix.dtype() {
        Dtype::Q8_0 => GgmlDType::Q8_0,
        Dtype::Q4_0 => GgmlDType::Q4_0,
        other => panic!("weights in {other}"),
    };
    let storage = QStorage::from_data(Cow::Borrowed(matrix.data()), &Device::Cpu, dtype);
    let tensor = QTensor::new(storage.expect("blocks"), (matrix.rows(), matrix.cols()));
    let product = QMatMul::from_qtensor(tensor.expect("a whole matrix")).expect("a product");
    quantised_product(&rows(&[0.0; HIDDEN]), &product);
    product
}

/// The layer over quantised weights.
pub fn quantised_product(x: &Tensor, w: &QMatMul) -> Tensor {
    w.forward(x).expect("shapes that fit")
}

/// Rows of activations, in f32.
pub fn rows(x: &[f32]) -> Tensor {
    Tensor::from_slice(x, (x.len() / HIDDEN, HIDDEN), &Device::Cpu).expect("whole rows")
}

/// The numbers of a tensor.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    let f32s = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all());
    f32s.and_then(|t| t.to_vec1()).expect("numbers")
}

/// What is left of activations when candle has quantised them for weights of this dtype. They are its own
/// quantiser's; that it is one of eight bits is checked.
pub fn quantised_activations(x: &Tensor, weights: Dtype) -> Vec<f32> {
    let (format, block) = activation_format(weights);
    let quantised = QTensor::quantize(x, format).and_then(|q| q.dequantize(&Device::Cpu)).expect("blocks");
    let (x, quantised) = (values(x), values(&quantised));
    for (x, quantised) in x.chunks_exact(block).zip(quantised.chunks_exact(block)) {
        let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        // Half a step of 127, a scale in f16, and two roundings to f32.
        let bound = largest * (0.5 / 127.0 + 2f32.powi(-11) + f32::EPSILON);
        for (x, quantised) in x.iter().zip(quantised) {
            assert!((x - quantised).abs() <= bound, "candle quantises {x} to {quantised}, bound {bound}");
        }
    }
    quantised
}

/// What candle 0.11 quantises activations to, and the elements of a block: as the weights' blocks, but for
/// Q8_0 on x86-64 with integer dot products, where it is 256 elements under one scale.
fn activation_format(weights: Dtype) -> (GgmlDType, usize) {
    #[cfg(target_arch = "x86_64")]
    if weights == Dtype::Q8_0
        && (is_x86_feature_detected!("avxvnni")
            || is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni"))
    {
        return (GgmlDType::Q8K, 256);
    }
    let _ = weights;
    (GgmlDType::Q8_0, 32)
}
