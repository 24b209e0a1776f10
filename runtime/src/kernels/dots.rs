//! Sums of products of small integers, sixteen at a time: what weights in groups are multiplied with, and the portable
//! twin of it. Everything here is exact, so implementations agree. Knows no kernel and no CPU feature.

use super::lanes::{Array, Lanes};
use ir::abi::PANEL;

/// Fours of rows in 32, as many as whole lines hold.
pub(super) const QUADS: usize = 8;

/// Bytes of a line of codes.
pub(super) const LINE: usize = 64;

/// Sixteen i32 sums, one for each column of a panel; they wrap.
///
/// # Safety
/// As [`Lanes`]; a line of codes is valid for [`LINE`] bytes, four activations for 4 (of 8 bits) or 8 (of 16).
pub(super) unsafe trait Dots: Copy {
    /// Floats of the same width.
    type V: Lanes;
    /// A line: byte `4 * j + b` belongs to column `j`.
    type Codes: Copy;
    /// What [`Dots::dot_8`] takes each code for too large: the caller takes as many sums of activations off.
    const EXCESS_8: i32;

    unsafe fn splat(x: i32) -> Self;
    /// `(p[j] + plus) * times` of sixteen bytes.
    unsafe fn points(p: *const u8, plus: i32, times: i32) -> Self;
    unsafe fn codes(p: *const u8) -> Self::Codes;
    /// Bits of each byte: those of `mask` after moving them down by `down`, all of that byte.
    unsafe fn bits(codes: Self::Codes, down: usize, mask: u8) -> Self::Codes;
    /// `low`, and the bits of `high` moved up by `up`, still of the same byte.
    unsafe fn above(low: Self::Codes, high: Self::Codes, up: usize) -> Self::Codes;
    /// Adds to each column its four codes, less 128 but for [`Dots::EXCESS_8`], times the activations.
    unsafe fn dot_8(self, codes: Self::Codes, x: *const i8) -> Self;
    /// Adds to each column its four codes, `0..128`, times the activations.
    unsafe fn dot_7(self, codes: Self::Codes, x: *const i8) -> Self;
    /// What [`Dots::dot_4`] adds up of [`QUADS`] fours of rows, to these sums or to narrower ones.
    #[inline(always)]
    unsafe fn begin_4(self) -> Self {
        self
    }
    /// These sums with what began of them.
    #[inline(always)]
    unsafe fn end_4(self, begun: Self) -> Self {
        begun
    }
    /// Adds to each column its four codes, `0..16`, times the activations, to what [began](Dots::begin_4).
    unsafe fn dot_4(self, codes: Self::Codes, x: *const i8) -> Self;
    /// Adds to each column its four codes, `0..256`, times the activations, which lie as the first, third, second and fourth.
    unsafe fn dot_wide(self, codes: Self::Codes, x: *const i16) -> Self;
    /// Rounded to the nearest.
    unsafe fn to_f32(self) -> Self::V;
    /// Byte `B` of each column.
    unsafe fn widen<const B: u32>(codes: Self::Codes) -> Self::V;
    /// The float of 8 bits that byte `B` of each column is; see [`ir::Element::E4M3`].
    unsafe fn widen_e4m3<const B: u32>(codes: Self::Codes) -> Self::V;
}

/// [`Dots`] in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Integers([i32; PANEL]);

impl Integers {
    fn dot(self, x: [i32; 4], code: impl Fn(usize) -> i32) -> Self {
        Integers(std::array::from_fn(|j| {
            (0..4).fold(self.0[j], |sum, b| sum.wrapping_add(code(4 * j + b) * x[b]))
        }))
    }
}

/// Four activations.
///
/// # Safety
/// There are four.
unsafe fn four(x: *const i8) -> [i32; 4] {
    // SAFETY: the caller's.
    std::array::from_fn(|b| i32::from(unsafe { *x.add(b) }))
}

/// The bits of a float of 8 bits as f32 has them, but for the exponent's bias, and what that wants to be multiplied by.
pub(super) const E4M3: (u32, f32) = (20, f32::from_bits((127 + 120) << 23));

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

    unsafe fn points(p: *const u8, plus: i32, times: i32) -> Self {
        // SAFETY: sixteen bytes, by the trait's contract.
        let point = |j| i32::from(unsafe { *p.add(j) });
        Integers(std::array::from_fn(|j| {
            (point(j) + plus).wrapping_mul(times)
        }))
    }

    unsafe fn bits(codes: [u8; LINE], down: usize, mask: u8) -> [u8; LINE] {
        codes.map(|c| c >> down & mask)
    }

    unsafe fn above(low: [u8; LINE], high: [u8; LINE], up: usize) -> [u8; LINE] {
        std::array::from_fn(|i| low[i] | high[i] << up)
    }

    unsafe fn dot_8(self, codes: [u8; LINE], x: *const i8) -> Self {
        // SAFETY: the trait's contract.
        self.dot(unsafe { four(x) }, |i| i32::from(codes[i]) - 128)
    }

    unsafe fn dot_7(self, codes: [u8; LINE], x: *const i8) -> Self {
        // SAFETY: the trait's contract.
        unsafe { self.dot_4(codes, x) }
    }

    unsafe fn dot_4(self, codes: [u8; LINE], x: *const i8) -> Self {
        // SAFETY: the trait's contract.
        self.dot(unsafe { four(x) }, |i| i32::from(codes[i]))
    }

    unsafe fn dot_wide(self, codes: [u8; LINE], x: *const i16) -> Self {
        // SAFETY: four activations, by the trait's contract.
        let x = [0, 2, 1, 3].map(|b| i32::from(unsafe { *x.add(b) }));
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

    unsafe fn widen_e4m3<const B: u32>(codes: [u8; LINE]) -> Array {
        let (up, scale) = E4M3;
        let floats: [f32; PANEL] = std::array::from_fn(|j| {
            let code = u32::from(codes[4 * j + B as usize]);
            f32::from_bits((code & 0x80) << 24 | (code & 0x7f) << up) * scale
        });
        // SAFETY: as in `to_f32`.
        unsafe { Array::load(floats.as_ptr()) }
    }
}
