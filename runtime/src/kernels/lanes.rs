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
    /// Widens the lower and the upper halves of [`PANEL`] pairs of bf16 exactly.
    unsafe fn load_pairs(p: *const u32) -> [Self; 2];
    /// Widens exactly.
    unsafe fn load_f16(p: *const f16) -> Self;
    /// Widens exactly.
    unsafe fn load_i8(p: *const i8) -> Self;
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
    /// A hint that the line at `p`, which need not be valid, will be read.
    #[inline(always)]
    fn prefetch<T>(p: *const T) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch of any address does nothing else, and every x86-64 has it.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(p.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }
}

/// `1.5 * 2^23`: adding it rounds a small f32 to an integer, ties to even, and leaves that integer in the lowest bits.
pub(super) const ROUNDER: f32 = 12_582_912.0;

/// [`Lanes`] in plain Rust: runs anywhere, and is what the others are tested against.
#[derive(Clone, Copy)]
pub(super) struct Array(pub(super) [f32; PANEL]);

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
    unsafe fn load_pairs(p: *const u32) -> [Self; 2] {
        // SAFETY: as `load`.
        let pairs = unsafe { p.cast::<[u32; PANEL]>().read_unaligned() };
        let half = |bits: fn(u32) -> u32| Array(pairs.map(|pair| f32::from_bits(bits(pair))));
        [half(|pair| pair << 16), half(|pair| pair & 0xffff_0000)]
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: as `load`.
        Array(unsafe { p.cast::<[f16; PANEL]>().read_unaligned() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: as `load`.
        Array(unsafe { p.cast::<[i8; PANEL]>().read_unaligned() }.map(f32::from))
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
