//! The linear layer with every row's own adapter:
//! `y[i] = x[i]·Wᵀ (+ bias) + s·(x[i]·A_a(i)ᵀ)·B_a(i)ᵀ` (LoRA, Hu et al. 2021, §4.1, unmerged).

use half::f16;
use interleaf_contract::host::HostSite;
use interleaf_contract::{BlockQ4_0, BlockQ8_0, Dtype, Matrix, Numerics};

use crate::numerics::quantise_q8_0;
use crate::weight::{codes_q4_0, codes_q8_0, decode_row};

/// `x` is rows × in, `y` rows × out, `adapters` one entry per row: the row's site on this projection,
/// or none. Base product, bias and adapter term are summed in f64 and rounded once. The adapter term
/// always meets f32 activations; `numerics` is about quantised W only.
pub fn lora_matmul(
    x: &[f32],
    w: &Matrix,
    bias: Option<&[f32]>,
    adapters: &[Option<&HostSite<Matrix>>],
    numerics: Numerics,
    y: &mut [f32],
) {
    let (outputs, inputs) = (w.rows(), w.cols());
    let shrunk: Vec<Vec<f64>> = adapters
        .iter()
        .enumerate()
        .map(|(i, site)| shrink(&x[i * inputs..(i + 1) * inputs], *site))
        .collect();
    let integer = numerics == Numerics::ActQ8_0 && w.dtype().is_quantised();
    let quantised = if integer { quantise_q8_0(x) } else { Vec::new() };
    let blocks = inputs / w.dtype().block_len();

    let mut weights = vec![0.0; inputs];
    let mut expand = Vec::new();
    for n in 0..outputs {
        if !integer {
            decode_row(w, n, &mut weights);
        }
        for (i, site) in adapters.iter().enumerate() {
            let base = if integer {
                integer_dot(w, n, &quantised[i * blocks..(i + 1) * blocks])
            } else {
                dot(&x[i * inputs..(i + 1) * inputs], &weights)
            };
            let mut sum = base + bias.map_or(0.0, |b| f64::from(b[n]));
            if let Some(site) = site {
                expand.resize(site.rank(), 0.0);
                decode_row(&site.b, n, &mut expand);
                let term: f64 = shrunk[i].iter().zip(&expand).map(|(z, &b)| z * f64::from(b)).sum();
                sum += f64::from(site.scale) * term;
            }
            y[i * outputs + n] = sum as f32;
        }
    }
}

/// `x·Aᵀ`: one value per rank; empty without a site.
fn shrink(x: &[f32], site: Option<&HostSite<Matrix>>) -> Vec<f64> {
    let Some(site) = site else { return Vec::new() };
    let mut row = vec![0.0; site.a.cols()];
    (0..site.rank())
        .map(|r| {
            decode_row(&site.a, r, &mut row);
            dot(x, &row)
        })
        .collect()
}

/// A dot product in f64, in eight interleaved partial sums: at this precision the order of summation is
/// far below every bound, and eight independent sums let the compiler use vector registers.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f64 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// `act=q8_0`: per block the sum of products of codes, an exact integer, times both scales.
fn integer_dot(w: &Matrix, n: usize, x: &[BlockQ8_0]) -> f64 {
    let row = w.row(n);
    let product = |d: u16, codes: [i8; 32], x: &BlockQ8_0| {
        let sum: i32 = codes.iter().zip(x.qs).map(|(&w, x)| i32::from(w) * i32::from(x)).sum();
        f64::from(sum) * f64::from(f16::from_bits(d).to_f32()) * f64::from(f16::from_bits(x.d).to_f32())
    };
    match w.dtype() {
        Dtype::Q8_0 => bytemuck::cast_slice::<u8, BlockQ8_0>(row)
            .iter()
            .zip(x)
            .map(|(b, x)| product(b.d, codes_q8_0(b), x))
            .sum(),
        Dtype::Q4_0 => bytemuck::cast_slice::<u8, BlockQ4_0>(row)
            .iter()
            .zip(x)
            .map(|(b, x)| product(b.d, codes_q4_0(b), x))
            .sum(),
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => 0.0,
    }
}
