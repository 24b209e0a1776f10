//! Codes of weights where they lie ([`Codec::panel`]): planes put together to four rows at a time, and what those stand for.
//! Knows no product.
//!
//! [`Codec::panel`]: ir::abi::Codec::panel

use super::dots::{Dots, LINE, QUADS};
use super::lanes::Lanes;
use ir::{Element, abi::STRIP};

/// The first of the lines that 32 rows of a panel take.
#[derive(Clone, Copy)]
pub(super) struct Lines(pub(super) *const u8);

impl Lines {
    /// # Safety
    /// The line is there; features as [`Dots`].
    #[inline(always)]
    unsafe fn line<D: Dots>(self, i: usize) -> D::Codes {
        // SAFETY: the caller's.
        unsafe { D::codes(self.0.wrapping_add(i * STRIP * LINE)) }
    }
}

/// Bits that an integer of so many takes: [`Element::width`].
pub(super) const fn width(bits: usize) -> usize {
    let bits = bits as u8;
    Element::Int { bits, zero: false }.width()
}

/// The codes of four rows, plus their excess; of up to 8 bits.
///
/// # Safety
/// The lines are there; features as [`Dots`].
#[inline(always)]
pub(super) unsafe fn quad<D: Dots, const BITS: usize>(lines: Lines, q: usize) -> D::Codes {
    // SAFETY: the caller's.
    unsafe {
        if width(BITS) == 8 {
            return lines.line::<D>(q);
        }
        let (mut whole, mut low, mut first) = (None, 0, 0);
        // Planes of 4, 2 and 1 bits, those that the number of bits has.
        let mut width = 4;
        while width > 0 {
            if BITS & width != 0 {
                let rows = QUADS / width;
                let line = lines.line::<D>(first + q / rows);
                let plane = D::bits(line, q % rows * width, (1 << width) - 1);
                whole = Some(match whole {
                    None => plane,
                    Some(below) => D::above(below, plane, low),
                });
                low += width;
                first += width;
            }
            width /= 2;
        }
        match whole {
            Some(codes) => codes,
            None => unreachable!("codes have bits"),
        }
    }
}

/// What codes stand for.
///
/// # Safety
/// As [`Dots`].
pub(super) trait Code {
    /// Bits that a code takes.
    const WIDTH: usize;
    /// See [`ir::Element::excess`].
    const EXCESS: i32;

    /// Four rows of sixteen weights: of the scale, and of the scale times what is taken off each code.
    unsafe fn widen<D: Dots>(lines: Lines, q: usize, scaling: [D::V; 2]) -> [D::V; 4];
}

/// Integers of up to 8 bits, or of 16.
pub(super) struct Int<const BITS: usize>;

// A code less what is taken off has 9 bits and a scale 11: one fused multiply-add gives their product exactly, and of 16 bits, whose
// excess is a power of two, rounded once.
impl<const BITS: usize> Code for Int<BITS> {
    const WIDTH: usize = width(BITS);
    const EXCESS: i32 = 1 << (BITS - 1);

    #[inline(always)]
    unsafe fn widen<D: Dots>(lines: Lines, q: usize, [scale, zero]: [D::V; 2]) -> [D::V; 4] {
        // SAFETY: the caller's.
        unsafe {
            if BITS == 16 {
                let (low, high) = (lines.line::<D>(q), lines.line::<D>(QUADS + q));
                let byte = D::V::splat(256.0);
                let (low, high) = (fours::<D>(low), fours::<D>(high));
                return [
                    high[0].fma(byte, low[0]).fma(scale, zero),
                    high[1].fma(byte, low[1]).fma(scale, zero),
                    high[2].fma(byte, low[2]).fma(scale, zero),
                    high[3].fma(byte, low[3]).fma(scale, zero),
                ];
            }
            let codes = fours::<D>(quad::<D, BITS>(lines, q));
            [
                codes[0].fma(scale, zero),
                codes[1].fma(scale, zero),
                codes[2].fma(scale, zero),
                codes[3].fma(scale, zero),
            ]
        }
    }
}

/// The bytes of each column.
///
/// # Safety
/// Features as [`Dots`].
#[inline(always)]
unsafe fn fours<D: Dots>(codes: D::Codes) -> [D::V; 4] {
    // SAFETY: the caller's.
    unsafe {
        [
            D::widen::<0>(codes),
            D::widen::<1>(codes),
            D::widen::<2>(codes),
            D::widen::<3>(codes),
        ]
    }
}

/// Floats of 8 bits.
pub(super) struct E4m3;

impl Code for E4m3 {
    const WIDTH: usize = 8;
    const EXCESS: i32 = 0;

    #[inline(always)]
    unsafe fn widen<D: Dots>(lines: Lines, q: usize, [scale, _]: [D::V; 2]) -> [D::V; 4] {
        // SAFETY: the caller's.
        unsafe {
            let codes = lines.line::<D>(q);
            [
                D::widen_e4m3::<0>(codes).mul(scale),
                D::widen_e4m3::<1>(codes).mul(scale),
                D::widen_e4m3::<2>(codes).mul(scale),
                D::widen_e4m3::<3>(codes).mul(scale),
            ]
        }
    }
}
