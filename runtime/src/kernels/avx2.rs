//! [`Lanes`] and [`Dots`] in two 256-bit registers: AVX2, FMA and F16C. Knows no kernel.

use super::dots::{Dots, E4M3};
use super::lanes::Lanes;
use half::{bf16, f16};
use ir::abi::PANEL;
use std::arch::x86_64::*;

/// Two `ymm` registers.
#[derive(Clone, Copy)]
pub(super) struct Ymm2(__m256, __m256);

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
