//! [`Dots`] by the instruction that sums four products of bytes (VNNI): in one 512-bit register, and in two of 256 bits.
//! Knows no kernel.

use super::avx2::Ymm2;
use super::avx2_dots::{self, Int2, both_int, four};
use super::avx512::Zmm;
use super::dots::{Dots, E4M3};
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
    unsafe fn points(p: *const u8, plus: i32, times: i32) -> Self {
        // SAFETY: sixteen bytes, by the trait's contract.
        unsafe {
            let points = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let points = _mm512_add_epi32(points, _mm512_set1_epi32(plus));
            Int512(_mm512_mullo_epi32(points, _mm512_set1_epi32(times)))
        }
    }

    #[inline(always)]
    unsafe fn bits(codes: __m512i, down: usize, mask: u8) -> __m512i {
        // SAFETY: as `splat`.
        unsafe {
            let moved = _mm512_srl_epi16(codes, _mm_cvtsi32_si128(down as i32));
            _mm512_and_si512(moved, _mm512_set1_epi8(mask.cast_signed()))
        }
    }

    #[inline(always)]
    unsafe fn above(low: __m512i, high: __m512i, up: usize) -> __m512i {
        // SAFETY: as `splat`.
        unsafe {
            let high = _mm512_sll_epi16(high, _mm_cvtsi32_si128(up as i32));
            _mm512_or_si512(low, high)
        }
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
    unsafe fn dot_7(self, codes: __m512i, x: *const i8) -> Self {
        // SAFETY: as `dot_8`.
        unsafe { self.dot_8(codes, x) }
    }

    #[inline(always)]
    unsafe fn dot_4(self, codes: __m512i, x: *const i8) -> Self {
        // SAFETY: as `dot_8`.
        unsafe { self.dot_8(codes, x) }
    }

    #[inline(always)]
    unsafe fn dot_wide(self, codes: __m512i, x: *const i16) -> Self {
        // SAFETY: as `splat`; four activations by the trait's contract.
        unsafe {
            let [even, odd] = avx2_dots::pairs(x);
            let (even, odd) = (_mm512_set1_epi32(even), _mm512_set1_epi32(odd));
            let low = _mm512_and_si512(codes, _mm512_set1_epi16(255));
            let sum = _mm512_dpwssd_epi32(self.0, low, even);
            Int512(_mm512_dpwssd_epi32(sum, _mm512_srli_epi16::<8>(codes), odd))
        }
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

    #[inline(always)]
    unsafe fn widen_e4m3<const B: u32>(codes: __m512i) -> Zmm {
        // SAFETY: as `splat`.
        unsafe {
            let top = match B {
                0 => _mm512_slli_epi32::<24>(codes),
                1 => _mm512_slli_epi32::<16>(codes),
                2 => _mm512_slli_epi32::<8>(codes),
                _ => codes,
            };
            let size = _mm512_and_si512(_mm512_srli_epi32::<4>(top), _mm512_set1_epi32(0x7f << 20));
            let bits = _mm512_or_si512(_mm512_and_si512(top, _mm512_set1_epi32(1 << 31)), size);
            Zmm(_mm512_mul_ps(
                _mm512_castsi512_ps(bits),
                _mm512_set1_ps(E4M3.1),
            ))
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
    unsafe fn points(p: *const u8, plus: i32, times: i32) -> Self {
        // SAFETY: the caller's.
        Int256(unsafe { Int2::points(p, plus, times) })
    }

    #[inline(always)]
    unsafe fn bits(codes: Int2, down: usize, mask: u8) -> Int2 {
        // SAFETY: as `splat`.
        unsafe { <Int2 as Dots>::bits(codes, down, mask) }
    }

    #[inline(always)]
    unsafe fn above(low: Int2, high: Int2, up: usize) -> Int2 {
        // SAFETY: as `splat`.
        unsafe { <Int2 as Dots>::above(low, high, up) }
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
    unsafe fn dot_7(self, codes: Int2, x: *const i8) -> Self {
        // SAFETY: as `dot_8`.
        unsafe { self.dot_8(codes, x) }
    }

    #[inline(always)]
    unsafe fn dot_4(self, codes: Int2, x: *const i8) -> Self {
        // SAFETY: as `dot_8`.
        unsafe { self.dot_8(codes, x) }
    }

    #[inline(always)]
    unsafe fn dot_wide(self, codes: Int2, x: *const i16) -> Self {
        // SAFETY: features by the trait's contract; four activations, too.
        unsafe {
            let [even, odd] = avx2_dots::pairs(x);
            let (even, odd) = (_mm256_set1_epi32(even), _mm256_set1_epi32(odd));
            let (byte, sum) = (_mm256_set1_epi16(255), self.0);
            Int256(both_int!(|sum, codes| {
                let sum = _mm256_dpwssd_avx_epi32(sum, _mm256_and_si256(codes, byte), even);
                _mm256_dpwssd_avx_epi32(sum, _mm256_srli_epi16::<8>(codes), odd)
            }))
        }
    }

    #[inline(always)]
    unsafe fn to_f32(self) -> Ymm2 {
        // SAFETY: as `splat`.
        unsafe { self.0.to_f32() }
    }

    #[inline(always)]
    unsafe fn widen<const B: u32>(codes: Int2) -> Ymm2 {
        // SAFETY: as `splat`.
        unsafe { avx2_dots::widen::<B>(codes) }
    }

    #[inline(always)]
    unsafe fn widen_e4m3<const B: u32>(codes: Int2) -> Ymm2 {
        // SAFETY: as `splat`.
        unsafe { avx2_dots::widen_e4m3::<B>(codes) }
    }
}
