//! [`Lanes`] in two 256-bit registers: AVX2, FMA and F16C. Knows no kernel.

use super::avx2_dots::{Int2, both_int};
use super::lanes::Lanes;
use half::{bf16, f16};
use ir::abi::PANEL;
use std::arch::x86_64::*;

/// Two `ymm` registers.
#[derive(Clone, Copy)]
pub(super) struct Ymm2(pub(super) __m256, pub(super) __m256);

/// The value of `f` applied to both registers of the operands.
macro_rules! both {
    ($f:path, $a:expr $(, $b:expr)*) => {
        // SAFETY: the caller vouches for AVX2, FMA and F16C (contract of `Lanes`).
        unsafe { Ymm2($f($a.0 $(, $b.0)*), $f($a.1 $(, $b.1)*)) }
    };
}

/// Sum (or another fold) of 8 lanes by halving.
macro_rules! halve {
    ($x:expr, $f128:path) => {{
        let x = $x;
        let x = $f128(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = $f128(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32($f128(x, _mm_movehdup_ps(x)))
    }};
}
pub(super) use halve;

/// See [`Lanes::transpose8`]: three stages of 2 x 2 exchanges (32-, 64- and 128-bit elements).
#[inline(always)]
pub(super) unsafe fn transpose8(src: *const f32, stride: usize, dst: *mut f32) {
    // SAFETY: the caller vouches for AVX2 and for an 8 x 8 block on both sides.
    unsafe {
        // Row i in the low and row i + 4 in the high half, so that no later stage crosses halves.
        macro_rules! rows {
            ($i:expr, $j:expr) => {
                _mm256_insertf128_ps::<1>(
                    _mm256_castps128_ps256(_mm_loadu_ps(src.add($i * stride + $j))),
                    _mm_loadu_ps(src.add(($i + 4) * stride + $j)),
                )
            };
        }
        let mut j = 0;
        while j < 8 {
            let (r0, r1, r2, r3) = (rows!(0, j), rows!(1, j), rows!(2, j), rows!(3, j));
            let (a, b) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
            let (c, d) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
            _mm256_storeu_ps(dst.add(j * PANEL), _mm256_shuffle_ps::<0x44>(a, c));
            _mm256_storeu_ps(dst.add((j + 1) * PANEL), _mm256_shuffle_ps::<0xee>(a, c));
            _mm256_storeu_ps(dst.add((j + 2) * PANEL), _mm256_shuffle_ps::<0x44>(b, d));
            _mm256_storeu_ps(dst.add((j + 3) * PANEL), _mm256_shuffle_ps::<0xee>(b, d));
            j += 4;
        }
    }
}

// SAFETY: each method is the instruction that its contract describes.
unsafe impl Lanes for Ymm2 {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: features by the trait's contract, here and below.
        unsafe { Ymm2(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: valid for PANEL elements, by the trait's contract.
        unsafe { Ymm2(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: as `load`.
        unsafe {
            let widen = |x| {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(
                    _mm_loadu_si128(x),
                )))
            };
            Ymm2(widen(p.cast()), widen(p.add(8).cast()))
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(p: *const u32) -> [Self; 2] {
        // SAFETY: as `load`.
        unsafe {
            let pairs = Int2(
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(8).cast()),
            );
            let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            let low = both_int!(|pairs| _mm256_slli_epi32::<16>(pairs));
            let high = both_int!(|pairs| _mm256_and_si256(pairs, upper));
            [
                Ymm2(_mm256_castsi256_ps(low.0), _mm256_castsi256_ps(low.1)),
                Ymm2(_mm256_castsi256_ps(high.0), _mm256_castsi256_ps(high.1)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: as `load`.
        unsafe {
            Ymm2(
                _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: as `load`.
        unsafe {
            let widen = |x| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x)));
            Ymm2(widen(p.cast()), widen(p.add(8).cast()))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as `load`.
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        both!(_mm256_fmadd_ps, self, b, c)
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        both!(_mm256_add_ps, self, b)
    }

    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        both!(_mm256_sub_ps, self, b)
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        both!(_mm256_mul_ps, self, b)
    }

    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        both!(_mm256_div_ps, self, b)
    }

    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        both!(_mm256_max_ps, self, b)
    }

    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        both!(_mm256_min_ps, self, b)
    }

    #[inline(always)]
    unsafe fn shift_exponent(self, n: Self) -> Self {
        // SAFETY: features by the trait's contract.
        unsafe {
            let shift = |x, n| {
                let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), n))
            };
            Ymm2(shift(self.0, n.0), shift(self.1, n.1))
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: features by the trait's contract.
        unsafe { halve!(_mm256_add_ps(self.0, self.1), _mm_add_ps) }
    }

    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        // SAFETY: features by the trait's contract.
        unsafe { halve!(_mm256_max_ps(self.0, self.1), _mm_max_ps) }
    }

    #[inline(always)]
    unsafe fn transpose8(src: *const f32, stride: usize, dst: *mut f32) {
        // SAFETY: the caller's.
        unsafe { transpose8(src, stride, dst) }
    }
}
