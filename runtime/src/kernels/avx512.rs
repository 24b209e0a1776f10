//! [`Lanes`] in one 512-bit register: AVX-512 F, with AVX2 and F16C; products of pairs of bf16 by AVX-512 BF16. Knows no
//! kernel.

use super::avx2::{self, halve};
use super::lanes::Lanes;
use super::lines::{Line, PairDots};
use half::{bf16, f16};
use ir::abi::PANEL;
use std::{arch::x86_64::*, mem::transmute};

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

impl Zmm {
    /// The lower and the upper halves of pairs of bf16, widened.
    ///
    /// # Safety
    /// Features as [`Lanes`].
    #[inline(always)]
    unsafe fn halves(pairs: __m512i) -> [Zmm; 2] {
        // SAFETY: the caller's.
        unsafe {
            let low = _mm512_slli_epi32::<16>(pairs);
            let high = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            [
                Zmm(_mm512_castsi512_ps(low)),
                Zmm(_mm512_castsi512_ps(high)),
            ]
        }
    }
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
    unsafe fn load_pairs(p: *const u32) -> [Self; 2] {
        // SAFETY: as `load`.
        unsafe { Zmm::halves(_mm512_loadu_si512(p.cast())) }
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

impl Line<Zmm> for PairDots {
    type Wide = __m512i;
    type Input = __m512i;

    #[inline(always)]
    unsafe fn load(p: *const PairDots) -> __m512i {
        // SAFETY: valid for PANEL pairs, by the trait's contract, as are the features here and below.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn input(x: *const bf16) -> __m512i {
        // SAFETY: there are two elements.
        unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn last(x: *const bf16) -> __m512i {
        // SAFETY: there is one element.
        unsafe { _mm512_set1_epi32(i32::from((*x).to_bits())) }
    }

    #[inline(always)]
    unsafe fn fma(line: __m512i, x: __m512i, sum: Zmm) -> Zmm {
        // SAFETY: as `load`. The three types say the same 512 bits.
        unsafe {
            let line = transmute::<__m512i, __m512bh>(line);
            let x = transmute::<__m512i, __m512bh>(x);
            Zmm(_mm512_dpbf16_ps(sum.0, line, x))
        }
    }

    #[inline(always)]
    unsafe fn store(line: __m512i, to: *mut f32) {
        // SAFETY: as `load`.
        unsafe {
            for (i, row) in Zmm::halves(line).into_iter().enumerate() {
                row.store(to.add(i * PANEL));
            }
        }
    }
}
