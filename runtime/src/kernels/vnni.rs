//! [`Dots`] by the instruction that sums four products of bytes (VNNI): in one 512-bit register, and in two of 256 bits.
//! Knows no kernel.

use super::avx2::{self, Int2, Ymm2, both_int, four};
use super::avx512::Zmm;
use super::dots::Dots;
use std::arch::x86_64::*;

/// One `zmm` register of i32: AVX-512 VNNI, BW.
#[derive(Clone, Copy)]
pub(super) struct Int512(__m512i);

// SAFETY: each method is what its contract describes.
unsafe impl Dots for Int512 {
    type V = Zmm;
    type Codes = __m512i;
    const EXCESS_8: i32 = 128;

    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: features by the trait's contract, here and below.
        unsafe { Int512(_mm512_set1_epi32(x)) }
    }

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> __m512i {
        // SAFETY: a line, by the trait's contract.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn low(codes: __m512i) -> __m512i {
        // SAFETY: as `splat`.
        unsafe { _mm512_and_si512(codes, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn high(codes: __m512i) -> __m512i {
        // SAFETY: as `splat`.
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(codes), _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn dot_8(self, codes: __m512i, x: *const i8) -> Self {
        // SAFETY: as `splat`; four activations by the trait's contract.
        unsafe {
            Int512(_mm512_dpbusd_epi32(
                self.0,
                codes,
                _mm512_set1_epi32(four(x)),
            ))
        }
    }

    #[inline(always)]
    unsafe fn dot_4(self, codes: __m512i, x: *const i8) -> Self {
        // SAFETY: as `dot_8`.
        unsafe { self.dot_8(codes, x) }
    }

    #[inline(always)]
    unsafe fn to_f32(self) -> Zmm {
        // SAFETY: as `splat`.
        unsafe { Zmm(_mm512_cvtepi32_ps(self.0)) }
    }

    #[inline(always)]
    unsafe fn widen<const B: u32>(codes: __m512i) -> Zmm {
        // SAFETY: as `splat`.
        unsafe {
            let moved = match B {
                0 => codes,
                1 => _mm512_srli_epi32::<8>(codes),
                2 => _mm512_srli_epi32::<16>(codes),
                _ => _mm512_srli_epi32::<24>(codes),
            };
            Zmm(_mm512_cvtepi32_ps(_mm512_and_si512(
                moved,
                _mm512_set1_epi32(255),
            )))
        }
    }
}

/// Two `ymm` registers of i32: AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Int256(Int2);

// SAFETY: each method is what its contract describes.
unsafe impl Dots for Int256 {
    type V = Ymm2;
    type Codes = Int2;
    const EXCESS_8: i32 = 128;

    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: the caller's, here and below.
        Int256(unsafe { Int2::splat(x) })
    }

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Int2 {
        // SAFETY: as `splat`.
        unsafe { <Int2 as Dots>::codes(p) }
    }

    #[inline(always)]
    unsafe fn low(codes: Int2) -> Int2 {
        // SAFETY: as `splat`.
        unsafe { avx2::halves(codes)[0] }
    }

    #[inline(always)]
    unsafe fn high(codes: Int2) -> Int2 {
        // SAFETY: as `splat`.
        unsafe { avx2::halves(codes)[1] }
    }

    #[inline(always)]
    unsafe fn dot_8(self, codes: Int2, x: *const i8) -> Self {
        // SAFETY: features by the trait's contract; four activations, too.
        unsafe {
            let (sum, x) = (self.0, _mm256_set1_epi32(four(x)));
            Int256(both_int!(|sum, codes| _mm256_dpbusd_avx_epi32(
                sum, codes, x
            )))
        }
    }

    #[inline(always)]
    unsafe fn dot_4(self, codes: Int2, x: *const i8) -> Self {
        // SAFETY: as `dot_8`.
        unsafe { self.dot_8(codes, x) }
    }

    #[inline(always)]
    unsafe fn to_f32(self) -> Ymm2 {
        // SAFETY: as `splat`.
        unsafe { self.0.to_f32() }
    }

    #[inline(always)]
    unsafe fn widen<const B: u32>(codes: Int2) -> Ymm2 {
        // SAFETY: as `splat`.
        unsafe { avx2::widen::<B>(codes) }
    }
}
