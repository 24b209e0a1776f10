//! [`Dots`] in two 256-bit registers: AVX2. Knows no kernel.

use super::avx2::Ymm2;
use super::dots::{Dots, E4M3};
use std::arch::x86_64::*;

/// Two `ymm` registers of i32.
#[derive(Clone, Copy)]
pub(super) struct Int2(pub(super) __m256i, pub(super) __m256i);

/// The value of `f` applied to both registers of the operands.
macro_rules! both_int {
    (|$($x:ident),+| $f:expr) => {
        Int2({ $(let $x = $x.0;)+ $f }, { $(let $x = $x.1;)+ $f })
    };
}
pub(super) use both_int;

/// The four activations of 16 bits at `x`, as pairs: the first two, the last two.
#[inline(always)]
pub(super) unsafe fn pairs(x: *const i16) -> [i32; 2] {
    // SAFETY: the caller's.
    unsafe { x.cast::<[i32; 2]>().read_unaligned() }
}

/// [`Dots::widen`].
#[inline(always)]
pub(super) unsafe fn widen<const B: u32>(codes: Int2) -> Ymm2 {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let byte = _mm256_set1_epi32(255);
        let one = |codes| {
            let moved = match B {
                0 => codes,
                1 => _mm256_srli_epi32::<8>(codes),
                2 => _mm256_srli_epi32::<16>(codes),
                _ => _mm256_srli_epi32::<24>(codes),
            };
            _mm256_cvtepi32_ps(_mm256_and_si256(moved, byte))
        };
        Ymm2(one(codes.0), one(codes.1))
    }
}

/// [`Dots::widen_e4m3`].
#[inline(always)]
pub(super) unsafe fn widen_e4m3<const B: u32>(codes: Int2) -> Ymm2 {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let (sign, rest) = (_mm256_set1_epi32(1 << 31), _mm256_set1_epi32(0x7f << 20));
        let one = |codes| {
            let top = match B {
                0 => _mm256_slli_epi32::<24>(codes),
                1 => _mm256_slli_epi32::<16>(codes),
                2 => _mm256_slli_epi32::<8>(codes),
                _ => codes,
            };
            let size = _mm256_and_si256(_mm256_srli_epi32::<4>(top), rest);
            let bits = _mm256_or_si256(_mm256_and_si256(top, sign), size);
            _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(E4M3.1))
        };
        Ymm2(one(codes.0), one(codes.1))
    }
}

/// Four activations in every lane.
#[inline(always)]
pub(super) unsafe fn four(x: *const i8) -> i32 {
    // SAFETY: the caller's.
    unsafe { x.cast::<i32>().read_unaligned() }
}

// SAFETY: each method is what its contract describes. Pairs of products stay below 2^15: codes and activations of 8 bits
// are at most 127 in magnitude. Pairs of 16 bits are summed in 32.
unsafe impl Dots for Int2 {
    type V = Ymm2;
    type Codes = Int2;
    const EXCESS_8: i32 = 0;

    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: features by the trait's contract, here and below.
        unsafe { Int2(_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
    }

    #[inline(always)]
    unsafe fn codes(p: *const u8) -> Int2 {
        // SAFETY: a line, by the trait's contract.
        unsafe {
            Int2(
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(32).cast()),
            )
        }
    }

    #[inline(always)]
    unsafe fn points(p: *const u8, plus: i32, times: i32) -> Self {
        // SAFETY: sixteen bytes, by the trait's contract.
        unsafe {
            let (plus, times) = (_mm256_set1_epi32(plus), _mm256_set1_epi32(times));
            let of = |p: *const u8| {
                let points = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
                _mm256_mullo_epi32(_mm256_add_epi32(points, plus), times)
            };
            Int2(of(p), of(p.add(8)))
        }
    }

    #[inline(always)]
    unsafe fn bits(codes: Int2, down: usize, mask: u8) -> Int2 {
        // SAFETY: as `splat`.
        unsafe {
            let mask = _mm256_set1_epi8(mask.cast_signed());
            let down = _mm_cvtsi32_si128(down as i32);
            both_int!(|codes| _mm256_and_si256(_mm256_srl_epi16(codes, down), mask))
        }
    }

    #[inline(always)]
    unsafe fn above(low: Int2, high: Int2, up: usize) -> Int2 {
        // SAFETY: as `splat`.
        unsafe {
            let up = _mm_cvtsi32_si128(up as i32);
            both_int!(|low, high| _mm256_or_si256(low, _mm256_sll_epi16(high, up)))
        }
    }

    #[inline(always)]
    unsafe fn dot_8(self, codes: Int2, x: *const i8) -> Self {
        // SAFETY: as `splat`; four activations by the trait's contract.
        unsafe {
            let x = _mm256_set1_epi32(four(x));
            let (middle, ones) = (_mm256_set1_epi8(-128), _mm256_set1_epi16(1));
            let (magnitude, sum) = (_mm256_abs_epi8(x), self);
            both_int!(|sum, codes| {
                // One factor must be unsigned: the sign of the activation goes to the code.
                let signed = _mm256_sign_epi8(_mm256_xor_si256(codes, middle), x);
                let pairs = _mm256_maddubs_epi16(magnitude, signed);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones))
            })
        }
    }

    #[inline(always)]
    unsafe fn dot_7(self, codes: Int2, x: *const i8) -> Self {
        // SAFETY: as `dot_8`.
        unsafe {
            let (x, ones) = (_mm256_set1_epi32(four(x)), _mm256_set1_epi16(1));
            let sum = self;
            both_int!(|sum, codes| {
                let pairs = _mm256_maddubs_epi16(codes, x);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones))
            })
        }
    }

    // Sums of 16 bits: pairs of codes and activations, eight times, are at most 8 * 2 * 15 * 127.
    #[inline(always)]
    unsafe fn begin_4(self) -> Self {
        // SAFETY: as `splat`.
        unsafe { Int2::splat(0) }
    }

    #[inline(always)]
    unsafe fn end_4(self, begun: Self) -> Self {
        // SAFETY: as `splat`.
        unsafe {
            let (ones, sum) = (_mm256_set1_epi16(1), self);
            both_int!(|sum, begun| _mm256_add_epi32(sum, _mm256_madd_epi16(begun, ones)))
        }
    }

    #[inline(always)]
    unsafe fn dot_4(self, codes: Int2, x: *const i8) -> Self {
        // SAFETY: as `dot_8`.
        unsafe {
            let (x, sum) = (_mm256_set1_epi32(four(x)), self);
            both_int!(|sum, codes| _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, x)))
        }
    }

    #[inline(always)]
    unsafe fn dot_wide(self, codes: Int2, x: *const i16) -> Self {
        // SAFETY: as `splat`; four activations by the trait's contract.
        unsafe {
            let [even, odd] = pairs(x);
            let (even, odd) = (_mm256_set1_epi32(even), _mm256_set1_epi32(odd));
            let (byte, sum) = (_mm256_set1_epi16(255), self);
            both_int!(|sum, codes| {
                let even = _mm256_madd_epi16(_mm256_and_si256(codes, byte), even);
                let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(codes), odd);
                _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
            })
        }
    }

    #[inline(always)]
    unsafe fn to_f32(self) -> Ymm2 {
        // SAFETY: as `splat`.
        unsafe { Ymm2(_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1)) }
    }

    #[inline(always)]
    unsafe fn widen<const B: u32>(codes: Int2) -> Ymm2 {
        // SAFETY: as `splat`.
        unsafe { widen::<B>(codes) }
    }

    #[inline(always)]
    unsafe fn widen_e4m3<const B: u32>(codes: Int2) -> Ymm2 {
        // SAFETY: as `splat`.
        unsafe { widen_e4m3::<B>(codes) }
    }
}
