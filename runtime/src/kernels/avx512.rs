//! [`Lanes`] in one 512-bit register: AVX-512 F, with AVX2 and F16C. Knows no kernel.

use super::avx2::{self, halve};
use super::lanes::Lanes;
use half::{bf16, f16};
use std::arch::x86_64::*;

/// One `zmm` register.
#[derive(Clone, Copy)]
pub(super) struct Zmm(pub(super) __m512);

/// The halves of a register.
macro_rules! split {
    ($x:expr) => {
        (
            _mm512_castps512_ps256($x),
            _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd($x))),
        )
    };
}

// SAFETY: each method is the instruction that its contract describes.
unsafe impl Lanes for Zmm {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: features by the trait's contract, here and below.
        unsafe { Zmm(_mm512_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: valid for PANEL elements, by the trait's contract.
        unsafe { Zmm(_mm512_loadu_ps(p)) }
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: as `load`.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self {
        // SAFETY: as `load`.
        unsafe { Zmm(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: as `load`.
        unsafe {
            let wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()));
            Zmm(_mm512_cvtepi32_ps(wide))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as `load`.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: features by the trait's contract, here and below.
        unsafe { Zmm(_mm512_fmadd_ps(self.0, b.0, c.0)) }
    }

    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        // SAFETY: as `fma`.
        unsafe { Zmm(_mm512_add_ps(self.0, b.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        // SAFETY: as `fma`.
        unsafe { Zmm(_mm512_sub_ps(self.0, b.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        // SAFETY: as `fma`.
        unsafe { Zmm(_mm512_mul_ps(self.0, b.0)) }
    }

    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        // SAFETY: as `fma`.
        unsafe { Zmm(_mm512_div_ps(self.0, b.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        // SAFETY: as `fma`.
        unsafe { Zmm(_mm512_max_ps(self.0, b.0)) }
    }

    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        // SAFETY: as `fma`.
        unsafe { Zmm(_mm512_min_ps(self.0, b.0)) }
    }

    #[inline(always)]
    unsafe fn shift_exponent(self, n: Self) -> Self {
        // SAFETY: as `fma`.
        unsafe {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(n.0));
            Zmm(_mm512_castsi512_ps(_mm512_add_epi32(
                _mm512_castps_si512(self.0),
                n,
            )))
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as `fma`.
        unsafe {
            let (low, high) = split!(self.0);
            halve!(_mm256_add_ps(low, high), _mm_add_ps)
        }
    }

    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        // SAFETY: as `fma`.
        unsafe {
            let (low, high) = split!(self.0);
            halve!(_mm256_max_ps(low, high), _mm_max_ps)
        }
    }

    #[inline(always)]
    unsafe fn transpose8(src: *const f32, stride: usize, dst: *mut f32) {
        // SAFETY: the caller's.
        unsafe { avx2::transpose8(src, stride, dst) }
    }
}
