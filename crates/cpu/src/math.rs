//! Vectors of f32 in small pieces and through functions: what every kernel shares.
#![allow(unsafe_op_in_unsafe_fn, reason = "the one condition of every function: the machine has the tier")]

use crate::isa::Isa;

/// The first `n` lanes from `p`, the others zero.
///
/// # Safety
/// The machine has the tier; `n ≤ LANES` elements are readable.
#[inline(always)]
pub unsafe fn load_first<I: Isa>(p: *const f32, n: usize) -> I::V {
    if n == I::LANES {
        return I::load(p);
    }
    let mut lanes = [0.0f32; MOST_LANES];
    std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
    I::load(lanes.as_ptr())
}

/// Stores the first `n` lanes.
///
/// # Safety
/// The machine has the tier; `n ≤ LANES` elements are writable.
#[inline(always)]
pub unsafe fn store_first<I: Isa>(p: *mut f32, v: I::V, n: usize) {
    if n == I::LANES {
        return I::store(p, v);
    }
    let mut lanes = [0.0f32; MOST_LANES];
    I::store(lanes.as_mut_ptr(), v);
    std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
}

/// Lanes of the widest tier.
pub const MOST_LANES: usize = 16;

/// IEEE binary16 to f32 without a branch or a call, so that the scalar tier converts lanes side by side, and nobody
/// asks each time what the machine has.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    /// 2 to the difference of the exponents' biases, 127 and 15: it makes subnormal numbers right, too.
    const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    let magnitude = u32::from(bits & 0x7FFF) << 13;
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let is_finite = bits & 0x7C00 != 0x7C00;
    let magnitude = if is_finite { finite } else { magnitude | 0x7F80_0000 };
    f32::from_bits(magnitude | (u32::from(bits & 0x8000) << 16))
}

/// `eˣ` to within 2 units in the last place; below −87 it stays at e⁻⁸⁷, above 88 at e⁸⁸. NaN stays NaN.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn exp<I: Isa>(x: I::V) -> I::V {
    let (power, rest) = exp_parts::<I>(x);
    I::mul(I::add(rest, I::splat(1.0)), power)
}

/// `2ⁿ` and `eʳ − 1`, of which `eˣ = 2ⁿ·eʳ` is made: `r = x − n·ln 2` in two parts, and a polynomial of degree 7 (Cephes'
/// `expf`, S. Moshier). The limits are those of [`exp`].
#[inline(always)]
unsafe fn exp_parts<I: Isa>(x: I::V) -> (I::V, I::V) {
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    // The constant stands first: what is NaN is taken from the second.
    let x = I::min(I::splat(88.0), I::max(I::splat(-87.0), x));
    let n = I::round(I::mul(x, I::splat(std::f32::consts::LOG2_E)));
    let r = I::fma(n, I::splat(-0.693_359_4), x);
    let r = I::fma(n, I::splat(2.121_944_4e-4), r);
    let mut p = I::splat(COEFFICIENTS[0]);
    for c in &COEFFICIENTS[1..] {
        p = I::fma(p, r, I::splat(*c));
    }
    (I::exp2i(n), I::fma(p, I::mul(r, r), r))
}

/// `x·sigmoid(x)`.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn silu<I: Isa>(x: I::V) -> I::V {
    let e = exp::<I>(I::sub(I::splat(0.0), x));
    I::div(x, I::add(I::splat(1.0), e))
}

/// GELU in its tanh form, through `1 + tanh(y) = 2 / (1 + e⁻²ʸ)`.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn gelu_tanh<I: Isa>(x: I::V) -> I::V {
    /// 2·√(2/π)
    const FACTOR: f32 = 1.595_769;
    let cube = I::mul(I::mul(x, x), x);
    let y = I::mul(I::splat(-FACTOR), I::fma(I::splat(0.044_715), cube, x));
    I::div(x, I::add(I::splat(1.0), exp::<I>(y)))
}

/// `tanh(x) = m / (m + 2)` with `m = e²ˣ − 1 = (2ⁿ − 1) + 2ⁿ·(eʳ − 1)`, which near 0 is as exact as elsewhere.
///
/// # Safety
/// The machine has the tier.
#[inline(always)]
pub unsafe fn tanh<I: Isa>(x: I::V) -> I::V {
    let (power, rest) = exp_parts::<I>(I::add(x, x));
    let m = I::fma(power, rest, I::sub(power, I::splat(1.0)));
    I::div(m, I::add(m, I::splat(2.0)))
}

/// `Σ a·b` in four interleaved sums.
///
/// # Safety
/// The machine has the tier; both have `n` readable elements.
#[inline(always)]
pub unsafe fn dot<I: Isa>(a: *const f32, b: *const f32, n: usize) -> f32 {
    let mut sums = [I::splat(0.0); 4];
    let step = 4 * I::LANES;
    let mut i = 0;
    while i + step <= n {
        for (part, sum) in sums.iter_mut().enumerate() {
            let at = i + part * I::LANES;
            *sum = I::fma(I::load(a.add(at)), I::load(b.add(at)), *sum);
        }
        i += step;
    }
    let mut part = 0;
    while i < n {
        let lanes = I::LANES.min(n - i);
        sums[part] = I::fma(load_first::<I>(a.add(i), lanes), load_first::<I>(b.add(i), lanes), sums[part]);
        i += lanes;
        part += 1;
    }
    I::sum(I::add(I::add(sums[0], sums[1]), I::add(sums[2], sums[3])))
}
