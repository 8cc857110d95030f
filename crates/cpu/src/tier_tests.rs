//! The instructions of every tier that this machine has, each against plain arithmetic.

use interleaf_contract::QUANT_BLOCK;

use crate::isa::{Isa, Kernel, QuantisedPanel, QuantisedTile, code_place};
use crate::math::{self, MOST_LANES};
use crate::tier::{Call, Tier};

/// Runs a kernel on every tier; tells which are not here.
fn on_every_tier<K: Kernel<Output = ()> + Clone>(kernel: K) {
    struct Enter<K>(K);
    impl<K: Kernel<Output = ()>> Call for Enter<K> {
        type Output = ();
        fn call<I: Isa>(self) {
            // SAFETY: the tier is not missing, and test kernels have no conditions.
            unsafe { I::enter(self.0) }
        }
    }
    for tier in Tier::ALL {
        match tier.missing() {
            None => tier.call(Enter(kernel.clone())),
            Some(reason) => println!("SKIPPED on {tier}: {reason}"),
        }
    }
}

/// A number without pattern from −1 to 1.
fn value(i: usize) -> f32 {
    ((i * 2_654_435_761 % 1_000_003) as f32 / 500_001.5) - 1.0
}

#[test]
fn exponentials_are_within_two_units_in_the_last_place() {
    #[derive(Clone)]
    struct Exp;
    impl Kernel for Exp {
        type Output = ();
        #[inline(always)]
        unsafe fn run<I: Isa>(self) {
            let mut out = [0.0f32; MOST_LANES];
            for i in 0..20_000 {
                let x = value(i) * 87.0;
                // SAFETY: `out` has room for the widest vector.
                unsafe { I::store(out.as_mut_ptr(), math::exp::<I>(I::splat(x))) };
                let exact = f64::from(x).exp();
                let error = (f64::from(out[0]) - exact).abs() / exact;
                assert!(error <= 2.0 * f64::from(f32::EPSILON), "exp({x}) is {}, error {error}", out[0]);
            }
            for (x, found) in [(f32::NEG_INFINITY, (-87f32).exp()), (-1000.0, (-87f32).exp()), (0.0, 1.0)] {
                // SAFETY: as above.
                unsafe { I::store(out.as_mut_ptr(), math::exp::<I>(I::splat(x))) };
                assert!((out[0] - found).abs() <= found * 1e-6, "exp({x}) is {}", out[0]);
            }
            // SAFETY: as above.
            unsafe { I::store(out.as_mut_ptr(), math::exp::<I>(I::splat(f32::NAN))) };
            assert!(out[0].is_nan());
        }
    }
    on_every_tier(Exp);
}

#[test]
fn rank_updates_are_chains_of_products() {
    #[derive(Clone)]
    struct Updates;
    impl Kernel for Updates {
        type Output = ();
        #[inline(always)]
        unsafe fn run<I: Isa>(self) {
            // SAFETY: the tier is here.
            unsafe {
                check::<I, 1, 4>();
                check::<I, 2, 4>();
                check::<I, 4, 3>();
                check::<I, 8, 1>();
            }
        }
    }

    #[inline(always)]
    unsafe fn check<I: Isa, const M: usize, const P: usize>() {
        let (lanes, factors, stride) = (I::LANES, I::FACTORS, P * I::LANES + 1);
        let x: Vec<f32> = (0..M * factors).map(value).collect();
        let w: Vec<f32> = (0..factors * stride).map(|i| value(i + 77)).collect();
        let rows: [*const f32; M] = std::array::from_fn(|m| x[m * factors..].as_ptr());
        let mut out = [0.0f32; MOST_LANES];
        // SAFETY: the caller has the tier; `w` has FACTORS rows of P vectors, x M rows of FACTORS.
        unsafe {
            let first: [I::V; P] = std::array::from_fn(|p| I::load(w[p * lanes..].as_ptr()));
            let mut one = [[I::splat(0.1); P]; M];
            I::rank_1_update(x.as_ptr(), first, &mut one);
            let mut all = [[I::splat(0.1); P]; M];
            I::rank_update(rows, w.as_ptr(), stride, &mut all);
            for m in 0..M {
                for p in 0..P {
                    let product = |k: usize, x: f32, sum| {
                        I::fma(I::splat(x), I::load(w[k * stride + p * lanes..].as_ptr()), sum)
                    };
                    let chain =
                        (0..factors).fold(I::splat(0.1), |sum, k| product(k, x[m * factors + k], sum));
                    for (found, expected) in
                        [(one[m][p], product(0, x[m], I::splat(0.1))), (all[m][p], chain)]
                    {
                        I::store(out.as_mut_ptr(), found);
                        let found = out;
                        I::store(out.as_mut_ptr(), expected);
                        assert_eq!(found[..lanes], out[..lanes], "row {m} of {M}, vector {p} of {P}");
                    }
                }
            }
        }
    }

    on_every_tier(Updates);
}

#[test]
fn vectors_are_loaded_reduced_and_transposed() {
    #[derive(Clone)]
    struct Pieces;
    impl Kernel for Pieces {
        type Output = ();
        #[inline(always)]
        unsafe fn run<I: Isa>(self) {
            let n = I::LANES;
            let from: Vec<f32> = (0..n * (n + 3)).map(value).collect();
            let mut to = vec![0.0f32; n * (n + 5)];
            let bfloat: Vec<u16> = from.iter().map(|v| half::bf16::from_f32(*v).to_bits()).collect();
            let mut out = [0.0f32; MOST_LANES];
            // SAFETY: every pointer has a vector's elements, and rows of the strides given.
            unsafe {
                I::transpose(from.as_ptr(), n + 3, to.as_mut_ptr(), n + 5);
                let v = I::load(from.as_ptr());
                let exact: f64 = from[..n].iter().map(|v| f64::from(*v)).sum();
                assert!((f64::from(I::sum(v)) - exact).abs() < 1e-5);
                assert_eq!(I::largest(v), from[..n].iter().copied().fold(f32::MIN, f32::max));
                I::store(out.as_mut_ptr(), I::load_bf16(bfloat.as_ptr()));
                assert!((0..n).all(|i| out[i] == half::bf16::from_bits(bfloat[i]).to_f32()));
                for (odd, lanes) in I::unzip(v, I::load(from.as_ptr().add(n))).into_iter().enumerate() {
                    I::store(out.as_mut_ptr(), lanes);
                    assert!((0..n).all(|i| out[i] == from[2 * i + odd]));
                }
            }
            for row in 0..n {
                for col in 0..n {
                    assert_eq!(to[col * (n + 5) + row], from[row * (n + 3) + col]);
                }
            }
        }
    }
    on_every_tier(Pieces);
}

#[test]
fn every_half_is_the_number_it_means() {
    #[derive(Clone)]
    struct Halves;
    impl Kernel for Halves {
        type Output = ();
        #[inline(always)]
        unsafe fn run<I: Isa>(self) {
            let bits: Vec<u16> = (0..=u16::MAX).collect();
            let mut out = [0.0f32; MOST_LANES];
            for bits in bits.chunks_exact(I::LANES) {
                // SAFETY: both have a vector's elements.
                unsafe { I::store(out.as_mut_ptr(), I::load_f16(bits.as_ptr())) };
                for (bits, found) in bits.iter().zip(out) {
                    let exact = half::f16::from_bits(*bits).to_f32();
                    let equal = found.to_bits() == exact.to_bits() || (found.is_nan() && exact.is_nan());
                    assert!(equal, "{bits:#06x} is {found}, expected {exact}");
                }
            }
        }
    }
    on_every_tier(Halves);
}

#[test]
fn every_code_is_the_step_it_means() {
    #[derive(Clone)]
    struct Codes;
    impl Kernel for Codes {
        type Output = ();
        #[inline(always)]
        unsafe fn run<I: Isa>(self) {
            for seed in 0..256usize {
                let bytes: [u8; 16] = std::array::from_fn(|i| (seed + i * 37) as u8);
                // SAFETY: sixteen codes of any width are within the bytes.
                let found = unsafe {
                    let p = bytes.as_ptr();
                    [(8, I::steps_8(p)), (4, I::steps_4(p)), (2, I::steps_2(p))]
                };
                for (bits, found) in found {
                    let mut steps = [0.0f32; 16];
                    assert_eq!(found.as_ref().len() * I::LANES, steps.len());
                    for (i, v) in found.as_ref().iter().enumerate() {
                        // SAFETY: sixteen are there.
                        unsafe { I::store(steps[i * I::LANES..].as_mut_ptr(), *v) };
                    }
                    let lowest = [-1.5, -8.0, -128.0][[2, 4, 8].iter().position(|b| *b == bits).unwrap()];
                    for (i, found) in steps.into_iter().enumerate() {
                        let code = bytes[i * bits / 8] >> (i * bits % 8) & (255 >> (8 - bits));
                        assert_eq!(found, f32::from(code) + lowest, "code {i} of {bits} bits");
                    }
                }
            }
        }
    }
    on_every_tier(Codes);
}

#[test]
fn every_code_of_a_word_is_the_step_it_means() {
    #[derive(Clone)]
    struct Words;
    impl Kernel for Words {
        type Output = ();
        #[inline(always)]
        unsafe fn run<I: Isa>(self) {
            check::<I, 2>(-1.5);
            check::<I, 4>(-8.0);
            check::<I, 8>(-128.0);
        }
    }

    /// Every code stands somewhere in every place.
    #[inline(always)]
    fn check<I: Isa, const BITS: usize>(lowest: f32) {
        for seed in 0..256u32 {
            let words: [u32; MOST_LANES] =
                std::array::from_fn(|i| (seed + 37 * i as u32).wrapping_mul(0x0101_0101));
            for nth in 0..32 / BITS {
                let mut steps = [0.0f32; MOST_LANES];
                // SAFETY: there are as many words and steps as any tier has lanes.
                unsafe {
                    I::store(steps.as_mut_ptr(), I::steps_of_words::<BITS>(I::words(words.as_ptr()), nth))
                };
                for (word, found) in words.into_iter().zip(steps).take(I::LANES) {
                    let code = word >> (BITS * nth) & ((1 << BITS) - 1);
                    assert_eq!(found, code as f32 + lowest, "code {nth} of {BITS} bits of {word:x}");
                }
            }
        }
    }
    on_every_tier(Words);
}

/// With scales of 1 a product of one block is the integer sum itself, which f32 holds exactly.
#[test]
fn integer_sums_are_exact() {
    #[derive(Clone)]
    struct Sums;
    impl Kernel for Sums {
        type Output = ();
        #[inline(always)]
        unsafe fn run<I: Isa>(self) {
            for seed in 0..40 {
                // SAFETY: `check` gives panels and tiles of one block.
                unsafe {
                    check::<I, 1>(seed);
                    check::<I, 2>(seed);
                    check::<I, 4>(seed);
                    if I::INTEGER_ROWS >= 8 {
                        check::<I, 8>(seed);
                    }
                    if I::INTEGER_ROWS >= 16 {
                        check::<I, 16>(seed);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn check<I: Isa, const M: usize>(seed: usize) {
        let lanes = I::LANES;
        // Extremes too: the largest magnitudes of codes and weights.
        let code = |i: usize, most: i32| match seed {
            0 => most,
            1 => -most,
            2 if i.is_multiple_of(2) => most,
            2 => -most,
            _ => (value(seed * 7919 + i) * (most as f32 + 0.5)) as i32,
        };
        let x: Vec<i8> = (0..M * QUANT_BLOCK).map(|i| code(i, 127) as i8).collect();
        let sums8: Vec<i32> = x
            .chunks_exact(QUANT_BLOCK)
            .map(|row| 8 * row.iter().map(|&q| i32::from(q)).sum::<i32>())
            .collect();
        let ones = [1.0f32; 16];
        let scales = [half::f16::ONE.to_bits(); MOST_LANES];
        let mut codes = x.clone();
        for (i, &code) in x.iter().enumerate() {
            codes[code_place::<I>(M, i / QUANT_BLOCK, i % QUANT_BLOCK)] = code;
        }
        let tile = QuantisedTile { codes: codes.as_ptr(), scales: ones.as_ptr(), sums8: sums8.as_ptr() };
        let dot = |row: usize, w: &dyn Fn(usize) -> i32| -> f32 {
            (0..QUANT_BLOCK).map(|k| i32::from(x[row * QUANT_BLOCK + k]) * w(k)).sum::<i32>() as f32
        };
        let mut out = [0.0f32; MOST_LANES];
        for bits in [8u32, 4] {
            let least = -(1i32 << (bits - 1));
            let weight = |lane: usize, k: usize| {
                match seed {
                    0 | 2 => least,
                    1 => -least - 1,
                    _ => (value(seed + 31 * lane + 1009 * k) * (0.5 - least as f32)) as i32,
                }
                .clamp(least, -least - 1)
            };
            let bytes = pack::<I>(bits, &weight);
            let panel = QuantisedPanel { codes: bytes.as_ptr(), scales: scales.as_ptr(), blocks: 1 };
            // SAFETY: the caller has the tier; panel and tile are of one block.
            unsafe {
                let mut acc = [I::splat(0.0); M];
                if bits == 8 {
                    I::q8_0::<M>(panel, tile, &mut acc)
                } else {
                    I::q4_0::<M>(panel, tile, &mut acc)
                }
                for (row, acc) in acc.into_iter().enumerate() {
                    I::store(out.as_mut_ptr(), acc);
                    for (lane, found) in out[..lanes].iter().enumerate() {
                        let expected = dot(row, &|k| weight(lane, k));
                        assert_eq!(
                            *found, expected,
                            "{bits} bits, seed {seed}, row {row} of {M}, lane {lane}"
                        );
                    }
                }
            }
        }
    }

    /// One block of codes in the tier's interleave.
    fn pack<I: Isa>(bits: u32, weight: &dyn Fn(usize, usize) -> i32) -> Vec<u8> {
        let (lanes, step, signed) = (I::LANES, I::INTERLEAVE.step, I::INTERLEAVE.signed);
        let stored =
            |lane, k| if signed { weight(lane, k) } else { weight(lane, k) + (1 << (bits - 1)) } as u8;
        let bytes = QUANT_BLOCK * bits as usize / 8;
        let mut packed = vec![0; lanes * bytes];
        for (i, byte) in packed.iter_mut().enumerate() {
            let (group, lane, part) = (i / (lanes * step), i / step % lanes, i % step);
            let k = group * step + part;
            *byte = match bits {
                8 => stored(lane, k),
                _ => (stored(lane, k) & 15) | (stored(lane, k + QUANT_BLOCK / 2) << 4),
            };
        }
        packed
    }

    on_every_tier(Sums);
}
