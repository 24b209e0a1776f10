//! Sums of products of small integers, sixteen at a time: what weights in groups are multiplied with, and the portable
//! twin of it. Everything here is exact, so implementations agree. Knows no kernel and no CPU feature.

use super::lanes::{Array, Lanes};
use ir::abi::PANEL;

/// Bytes of a line of codes.
pub(super) const LINE: usize = 64;

/// Sixteen i32 sums, one for each column of a panel.
///
/// # Safety
/// As [`Lanes`]; a line of codes is valid for [`LINE`] bytes, four activations for 4.
pub(super) unsafe trait Dots: Copy {
    /// Floats of the same width.
    type V: Lanes;
    /// A line: byte `4 * j + b` belongs to column `j`.
    type Codes: Copy;
    /// What [`Dots::dot_8`] takes each code for too large: the caller takes as many sums of activations off.
    const EXCESS_8: i32;

    unsafe fn splat(x: i32) -> Self;
    unsafe fn codes(p: *const u8) -> Self::Codes;
    /// The low half of each byte.
    unsafe fn low(codes: Self::Codes) -> Self::Codes;
    /// The high half of each byte.
    unsafe fn high(codes: Self::Codes) -> Self::Codes;
    /// Adds to each column its four codes, less 128 but for [`Dots::EXCESS_8`], times the activations.
    unsafe fn dot_8(self, codes: Self::Codes, x: *const i8) -> Self;
    /// Adds to each column its four codes, `0..16`, times the activations.
    unsafe fn dot_4(self, codes: Self::Codes, x: *const i8) -> Self;
    /// Rounded to the nearest.
    unsafe fn to_f32(self) -> Self::V;
    /// Byte `B` of each column.
    unsafe fn widen<const B: u32>(codes: Self::Codes) -> Self::V;
}

/// [`Dots`] in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Integers([i32; PANEL]);

impl Integers {
    fn dot(self, x: *const i8, code: impl Fn(usize) -> i32) -> Self {
        // SAFETY: four activations, by the trait's contract.
        let x: [i32; 4] = std::array::from_fn(|b| i32::from(unsafe { *x.add(b) }));
        Integers(std::array::from_fn(|j| {
            (0..4).fold(self.0[j], |sum, b| sum + code(4 * j + b) * x[b])
        }))
    }
}

// SAFETY: each method does what its contract says.
unsafe impl Dots for Integers {
    type V = Array;
    type Codes = [u8; LINE];
    const EXCESS_8: i32 = 0;

    unsafe fn splat(x: i32) -> Self {
        Integers([x; PANEL])
    }

    unsafe fn codes(p: *const u8) -> [u8; LINE] {
        // SAFETY: a line, by the trait's contract.
        unsafe { p.cast::<[u8; LINE]>().read_unaligned() }
    }

    unsafe fn low(codes: [u8; LINE]) -> [u8; LINE] {
        codes.map(|c| c & 15)
    }

    unsafe fn high(codes: [u8; LINE]) -> [u8; LINE] {
        codes.map(|c| c >> 4)
    }

    unsafe fn dot_8(self, codes: [u8; LINE], x: *const i8) -> Self {
        self.dot(x, |i| i32::from(codes[i]) - 128)
    }

    unsafe fn dot_4(self, codes: [u8; LINE], x: *const i8) -> Self {
        self.dot(x, |i| i32::from(codes[i]))
    }

    unsafe fn to_f32(self) -> Array {
        let floats: [f32; PANEL] = self.0.map(|x| x as f32);
        // SAFETY: sixteen floats; no CPU feature is needed.
        unsafe { Array::load(floats.as_ptr()) }
    }

    unsafe fn widen<const B: u32>(codes: [u8; LINE]) -> Array {
        let floats: [f32; PANEL] = std::array::from_fn(|j| codes[4 * j + B as usize].into());
        // SAFETY: as in `to_f32`.
        unsafe { Array::load(floats.as_ptr()) }
    }
}
