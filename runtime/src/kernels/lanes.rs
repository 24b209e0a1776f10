//! Sixteen f32 lanes: the one vector that every kernel here is written in, and the portable twin of it.
//!
//! An instruction set implements [`Lanes`] with one 512-bit or two 256-bit registers. Each operation is defined lane by
//! lane with IEEE rounding and every reduction is the same tree, so kernels written in it give equal bits everywhere.
//! This file knows no kernel and no CPU feature.

use half::{bf16, f16};
use ir::abi::PANEL;

/// Sixteen f32 values.
///
/// # Safety
/// Every method requires the CPU features of the implementation; pointers need no alignment but must be valid for
/// [`PANEL`] elements. Implementations must compute exactly what the comments say: equal bits rest on it.
pub(super) unsafe trait Lanes: Copy {
    /// All lanes equal.
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    /// Widens exactly.
    unsafe fn load_bf16(p: *const bf16) -> Self;
    /// Widens exactly.
    unsafe fn load_f16(p: *const f16) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// `self * b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    /// `self` where it is greater, else `b`: a NaN in either gives `b`.
    unsafe fn max(self, b: Self) -> Self;
    /// `self` where it is less, else `b`: a NaN in either gives `b`.
    unsafe fn min(self, b: Self) -> Self;
    /// `self * 2^n`, by adding `n`'s lowest bits to the exponent: `n` is an integer plus [`ROUNDER`], the result normal.
    unsafe fn shift_exponent(self, n: Self) -> Self;
    /// Sum by halving: lanes `i` and `i + 8`, then 4, 2, 1.
    unsafe fn sum(self) -> f32;
    /// Maximum by the same tree.
    unsafe fn maximum(self) -> f32;
    /// `dst[j * PANEL + i] = src[i * stride + j]` for `i, j` in `0..8`.
    unsafe fn transpose8(src: *const f32, stride: usize, dst: *mut f32);
}

/// `1.5 * 2^23`: adding it rounds a small f32 to an integer, ties to even, and leaves that integer in the lowest bits.
pub(super) const ROUNDER: f32 = 12_582_912.0;

/// `2^x` for `x <= 126`; below -125, `2^-125`.
///
/// `x = n + f` with `n` an integer, and the minimax polynomial of degree 5 for `2^f` on `-0.5..=0.5` that is exact at
/// zero with its slope: relative error below 2e-7.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp2<V: Lanes>(x: V) -> V {
    const POLYNOMIAL: [f32; 6] = [
        1.330_060_5e-3,
        9.669_691e-3,
        5.550_558_5e-2,
        2.402_228_2e-1,
        std::f32::consts::LN_2,
        1.0,
    ];
    // SAFETY: the caller vouches for the CPU features; there are no pointers.
    unsafe {
        // In this order NaN stays NaN.
        let x = V::splat(-125.0).max(x);
        let n = x.add(V::splat(ROUNDER));
        let f = x.sub(n.sub(V::splat(ROUNDER)));
        horner(&POLYNOMIAL, f).shift_exponent(n)
    }
}

/// The polynomial with these coefficients, highest degree first.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn horner<V: Lanes, const N: usize>(coefficients: &[f32; N], x: V) -> V {
    // SAFETY: the caller vouches for the CPU features; there are no pointers.
    unsafe {
        let mut p = V::splat(coefficients[0]);
        let mut i = 1;
        while i < N {
            p = p.fma(x, V::splat(coefficients[i]));
            i += 1;
        }
        p
    }
}

/// `tanh x`: the odd 13/6 rational minimax approximation of Eigen (`generic_fast_tanh_float`), error of a few ulp.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn tanh<V: Lanes>(x: V) -> V {
    // Beyond this the f32 result of the rational form is +-1.
    const SATURATES: f32 = 7.905_311;
    const ALPHA: [f32; 7] = [
        -2.760_768_4e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_3e-8,
        1.485_722_36e-5,
        6.372_619_4e-4,
        4.893_524_6e-3,
    ];
    const BETA: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_7e-3, 4.893_525e-3];
    // SAFETY: the caller vouches for the CPU features; there are no pointers.
    unsafe {
        // In this order NaN stays NaN.
        let x = V::splat(-SATURATES).max(V::splat(SATURATES).min(x));
        let x2 = x.mul(x);
        x.mul(horner(&ALPHA, x2)).div(horner(&BETA, x2))
    }
}

/// [`Lanes`] in plain Rust: runs anywhere, and is what the others are tested against.
#[derive(Clone, Copy)]
pub(super) struct Array([f32; PANEL]);

impl Array {
    #[inline(always)]
    fn zip(self, b: Array, f: impl Fn(f32, f32) -> f32) -> Array {
        Array(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }

    #[inline(always)]
    fn fold(mut self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut half = PANEL / 2;
        while half > 0 {
            for i in 0..half {
                self.0[i] = f(self.0[i], self.0[i + half]);
            }
            half /= 2;
        }
        self.0[0]
    }
}

// SAFETY: needs no CPU feature; each method is the plain statement of its contract.
unsafe impl Lanes for Array {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Array([x; PANEL])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: valid for PANEL elements by the trait's contract.
        Array(unsafe { p.cast::<[f32; PANEL]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: as `load`.
        Array(unsafe { p.cast::<[bf16; PANEL]>().read_unaligned() }.map(bf16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: as `load`.
        Array(unsafe { p.cast::<[f16; PANEL]>().read_unaligned() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as `load`.
        unsafe { p.cast::<[f32; PANEL]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.zip(b, |x, y| x + y)
    }

    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.zip(b, |x, y| x - y)
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.zip(b, |x, y| x * y)
    }

    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self.zip(b, |x, y| x / y)
    }

    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.zip(b, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        self.zip(b, |x, y| if x < y { x } else { y })
    }

    #[inline(always)]
    unsafe fn shift_exponent(self, n: Self) -> Self {
        self.zip(n, |x, n| {
            f32::from_bits(x.to_bits().wrapping_add(n.to_bits() << 23))
        })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.fold(|x, y| x + y)
    }

    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        self.fold(|x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    unsafe fn transpose8(src: *const f32, stride: usize, dst: *mut f32) {
        for i in 0..8 {
            for j in 0..8 {
                // SAFETY: the caller vouches for an 8 x 8 block on both sides.
                unsafe { *dst.add(j * PANEL + i) = *src.add(i * stride + j) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks `f` against `exact` where both are defined, over `from..to`.
    fn check(
        f: impl Fn(Array) -> Array,
        exact: impl Fn(f64) -> f64,
        range: std::ops::Range<f32>,
        tolerance: f64,
    ) {
        for i in 0..100_000 {
            let x = range.start + (range.end - range.start) * (i as f32 / 1e5);
            let (got, exact) = (f(Array([x; PANEL])).0[i % PANEL], exact(f64::from(x)));
            assert!(
                (f64::from(got) - exact).abs() <= tolerance * exact.abs(),
                "{x}: {got}, not {exact}"
            );
        }
    }

    #[test]
    fn elementary_functions_are_accurate() {
        // SAFETY: `Array` needs no CPU feature.
        check(|x| unsafe { exp2(x) }, f64::exp2, -125.0..126.0, 2e-7);
        // SAFETY: as above.
        check(|x| unsafe { tanh(x) }, f64::tanh, -12.0..12.0, 4e-7);
    }

    #[test]
    fn elementary_functions_at_the_edges() {
        // SAFETY: `Array` needs no CPU feature.
        let (exp2, tanh) = (
            |x| unsafe { exp2(Array([x; PANEL])).0[0] },
            |x| unsafe { tanh(Array([x; PANEL])).0[0] },
        );
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 2f32.powi(-125));
        assert_eq!(
            (tanh(0.0), tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)),
            (0.0, tanh(9.0), tanh(-9.0))
        );
        assert!(exp2(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }
}
