//! What an element says that shares a scale with its group: an integer of few bits, around zero or around a zero point, or a float
//! of 8 bits. A new way to say weights is a row of [`Element::ALL`] and a line where kernels are listed. Knows no layout.

use crate::DType;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How the codes of a group stand for numbers, with the group's scale and zero point (the element formats of the OCP Microscaling
/// specification, with scales of f16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Element {
    /// `(code - zero) * scale`.
    Int {
        /// Of a code.
        bits: u8,
        /// Whether groups have zero points; codes are symmetric around zero where not.
        zero: bool,
    },
    /// `e4m3(code) * scale`: a sign, four bits of exponent, three of significand; no infinities (Micikevicius et al. 2022, arXiv
    /// 2209.05433).
    E4M3,
}

const fn symmetric(bits: u8) -> Element {
    Element::Int { bits, zero: false }
}

const fn asymmetric(bits: u8) -> Element {
    Element::Int { bits, zero: true }
}

impl Element {
    /// Integers of 8 bits.
    pub const Q8: Element = symmetric(8);
    /// Integers of 7 bits, each in a byte: sums of two products with 8 bits fit 16, as processors without an instruction for sums of
    /// four want them.
    pub const Q7: Element = symmetric(7);
    /// Integers of 4 bits.
    pub const Q4: Element = symmetric(4);
    /// Integers of 3 bits.
    pub const Q3: Element = symmetric(3);
    /// Integers of 16 bits.
    pub const Q16: Element = symmetric(16);
    /// Integers of 4 bits with zero points.
    pub const U4: Element = asymmetric(4);
    /// Integers of 3 bits with zero points.
    pub const U3: Element = asymmetric(3);
    /// Those that kernels have. The place of one is its place in [`KernelTable::grouped`](crate::abi::KernelTable::grouped).
    pub const ALL: [Element; 9] = [
        Element::Q8,
        Element::Q4,
        Element::Q3,
        asymmetric(8),
        Element::U4,
        Element::U3,
        Element::Q16,
        Element::E4M3,
        Element::Q7,
    ];

    /// Its place in [`Element::ALL`].
    pub fn index(self) -> Option<usize> {
        Element::ALL.iter().position(|e| *e == self)
    }

    /// Of a code.
    pub const fn bits(self) -> usize {
        match self {
            Element::Int { bits, .. } => bits as usize,
            Element::E4M3 => 8,
        }
    }

    /// Bits that a code takes where it is stored.
    pub const fn width(self) -> usize {
        match self.bits() {
            5..8 => 8,
            bits => bits,
        }
    }

    /// Whether groups have zero points.
    pub const fn zero(self) -> bool {
        matches!(self, Element::Int { zero: true, .. })
    }

    /// Bytes that a group takes beside its codes: a scale of f16, a zero point of 8 bits.
    pub const fn shared(self) -> usize {
        2 + self.zero() as usize
    }

    /// Bytes of so many elements in groups of `group`, scales and zero points included.
    pub fn bytes(self, elements: u64, group: u32) -> u64 {
        (elements.saturating_mul(self.width() as u64) / 8)
            .saturating_add(elements / u64::from(group.max(1)) * self.shared() as u64)
    }

    /// The least and the largest code; of zero points, too.
    pub const fn codes(self) -> (i32, i32) {
        match self {
            Element::E4M3 => (-128, 127),
            Element::Int { bits, zero } => {
                let most = (1 << (bits - 1)) - 1;
                // Of 8 bits kernels negate codes.
                let least = if zero && bits < 8 { -most - 1 } else { -most };
                (least, most)
            }
        }
    }

    /// Whether a code stands for a number.
    pub fn says(self, code: i32) -> bool {
        let (least, most) = self.codes();
        let number = self != Element::E4M3 || code & 0x7f != 0x7f;
        (least..=most).contains(&code) && number
    }

    /// What is added to a code where kernels read it, so that it is not negative; floats stay the bits that they are.
    pub const fn excess(self) -> i32 {
        match self {
            Element::Int { bits, .. } => 1 << (bits - 1),
            Element::E4M3 => 0,
        }
    }

    /// The element type that holds its codes in a program.
    pub const fn storage(self) -> DType {
        if self.bits() > 8 {
            DType::I16
        } else {
            DType::I8
        }
    }

    /// Whether kernels sum the products of such weights and of rows in such integers exactly, in groups of `group`: no sum leaves
    /// 32 bits.
    pub fn meets(self, rows: Element, group: u32) -> bool {
        let (Element::Int { bits, zero }, Element::Int { zero: false, .. }) = (self, rows) else {
            return false;
        };
        let ((least, most), (_, largest)) = (self.codes(), rows.codes());
        let span = if zero { most - least } else { most };
        let sum = i64::from(span) * i64::from(largest) * i64::from(group);
        bits <= 8 && [8, 16].contains(&rows.bits()) && sum <= i64::from(i32::MAX)
    }

    /// What a code says before it is scaled.
    pub fn number(self, code: i32, zero: i32) -> f32 {
        match self {
            Element::Int { .. } => (code - zero) as f32,
            Element::E4M3 => e4m3(code as u8),
        }
    }
}

/// The number that 8 bits say. Exact: bits of f32 with another bias of the exponent.
fn e4m3(bits: u8) -> f32 {
    let sign = u32::from(bits & 0x80) << 24;
    f32::from_bits(sign | u32::from(bits & 0x7f) << 20) * 2f32.powi(120)
}

/// The nearest that 8 bits say, ties to even, at most 448.
fn to_e4m3(x: f32) -> u8 {
    const LARGEST: f32 = 448.0;
    let size = x.abs().min(LARGEST);
    let exponent = (size.to_bits() >> 23) as i32 - 127;
    // Three bits below the leading one; below 2^-6 steps are even.
    let step = 2f32.powi(exponent.max(-6) - 3);
    let near = (size / step).round_ties_even() * step;
    let bits = (near * 2f32.powi(-120)).to_bits() >> 20;
    (bits as u8 & 0x7f) | if x < 0.0 && bits > 0 { 0x80 } else { 0 }
}

/// The nearest integer, ties to even, of a number up to 2^16, to which others are cut: beyond all codes. In two additions, which
/// vectors have on every processor.
#[inline]
pub fn nearest_integer(x: f32) -> f32 {
    const ROUNDER: f32 = 1.5 * (1 << 23) as f32;
    const BEYOND: f32 = (1 << 16) as f32;
    x.clamp(-BEYOND, BEYOND) + ROUNDER - ROUNDER
}

/// The numbers that the codes of a group can say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// What codes are.
    pub element: Element,
    /// Not negative.
    pub scale: f32,
    /// Zero where the element has none.
    pub zero: i32,
}

impl Grid {
    /// That of a group, from its least to its largest number (and zero), the scale rounded to `scale`. In f32, so that a code beside a tie does
    /// not depend on who computes it.
    pub fn of(element: Element, group: &[f32], scale: DType) -> Grid {
        let (mut low, mut high, mut nan) = (0.0f32, 0.0f32, false);
        for x in group {
            (low, high) = (low.min(*x), high.max(*x));
            nan |= x.is_nan();
        }
        let ends = if nan {
            (f32::NAN, f32::NAN)
        } else {
            (low, high)
        };
        Grid::between(element, ends, scale)
    }

    /// That from one number to another.
    pub fn between(element: Element, (low, high): (f32, f32), scale: DType) -> Grid {
        let (least, most) = element.codes();
        let peak = match low.is_nan() {
            true => f32::NAN,
            false => high.max(-low),
        };
        let wide = match element {
            Element::E4M3 => peak / 448.0,
            Element::Int { zero: false, .. } => peak / most as f32,
            Element::Int { zero: true, .. } => (high - low) / (most - least) as f32,
        };
        let scale = scale.round(wide.into()) as f32;
        let zero = match element.zero() && scale > 0.0 {
            true => {
                (least as f32 - (low / scale).round_ties_even()).clamp(least as f32, most as f32)
            }
            false => 0.0,
        };
        Grid {
            element,
            scale,
            zero: zero as i32,
        }
    }

    /// The codes of a group's numbers, as [`Grid::code`].
    pub fn codes(self, group: &[f32], to: &mut [i16]) {
        for (to, x) in to.iter_mut().zip(group) {
            *to = self.code(*x) as i16;
        }
    }

    /// The code of the nearest number; that of zero where the scale is.
    #[inline]
    pub fn code(self, x: f32) -> i32 {
        if self.scale <= 0.0 {
            return self.zero;
        }
        let (least, most) = self.element.codes();
        match self.element {
            Element::E4M3 => i32::from(to_e4m3(x / self.scale) as i8),
            Element::Int { .. } => {
                let code = nearest_integer(x / self.scale) + self.zero as f32;
                code.clamp(least as f32, most as f32) as i32
            }
        }
    }

    /// What a code stands for, rounded to f32; exact of 8 bits and fewer with scales of f16.
    #[inline]
    pub fn value(self, code: i32) -> f32 {
        self.element.number(code, self.zero) * self.scale
    }
}

/// `q4`, `u4` with zero points, `f8`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Int { bits, zero: false } => write!(f, "q{bits}"),
            Element::Int { bits, zero: true } => write!(f, "u{bits}"),
            Element::E4M3 => f.write_str("f8"),
        }
    }
}

/// A name that no element has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no element of groups is called {name:?}: there are {}", Element::ALL.map(|e| e.to_string()).join(", "))]
pub struct UnknownElement {
    /// The name.
    pub name: String,
}

impl FromStr for Element {
    type Err = UnknownElement;
    fn from_str(name: &str) -> Result<Element, UnknownElement> {
        let found = Element::ALL.into_iter().find(|e| e.to_string() == name);
        found.ok_or_else(|| UnknownElement { name: name.into() })
    }
}

impl TryFrom<String> for Element {
    type Error = UnknownElement;
    fn try_from(name: String) -> Result<Element, UnknownElement> {
        name.parse()
    }
}

impl From<Element> for String {
    fn from(element: Element) -> String {
        element.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_8_bits_are_the_nearest() {
        // By the definition of the format, not by bits of f32.
        let number = |bits: u8| {
            let (e, m) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
            let size = match e {
                0 => m / 8.0 * 2f64.powi(-6),
                _ => (1.0 + m / 8.0) * 2f64.powi(e - 7),
            };
            if bits & 0x80 == 0 { size } else { -size }
        };
        let all: Vec<u8> = (0..=255u8).filter(|b| b & 0x7f != 0x7f).collect();
        for bits in &all {
            assert_eq!(f64::from(e4m3(*bits)), number(*bits), "{bits:#x}");
            assert_eq!(e4m3(to_e4m3(e4m3(*bits))), e4m3(*bits), "{bits:#x}");
        }
        for i in -5000i32..5000 {
            let x = f64::from(i) * 0.1 * 2f64.powi(-(i.rem_euclid(17)));
            let found = number(to_e4m3(x as f32));
            let nearest = all.iter().map(|b| (number(*b) - x).abs());
            let least = nearest.fold(f64::INFINITY, f64::min);
            assert!(
                (found - x).abs() <= least * (1.0 + 1e-6) + 1e-9,
                "{x}: {found}"
            );
        }
    }

    #[test]
    fn integers_are_the_nearest() {
        let numbers = (-70_000..70_000).map(|i| i as f32 * 0.25);
        for x in numbers.chain([0.49999997, 8_388_609.0, f32::INFINITY, -f32::INFINITY]) {
            let wanted = x.round_ties_even().clamp(-65_536.0, 65_536.0);
            assert_eq!(nearest_integer(x), wanted, "{x}");
        }
        assert!(nearest_integer(f32::NAN).is_nan());
    }

    #[test]
    fn grids_hold_their_groups() {
        let groups: [&[f32]; 5] = [
            &[0.0; 4],
            &[1.0, 2.0, 3.5, 7.0],
            &[-1.0, -2.0, -0.25, -6.5],
            &[-0.1, 0.7, 0.3, 0.0],
            &[1e-9, -1e-9, 0.0, 0.0],
        ];
        for element in Element::ALL {
            for group in groups {
                let grid = Grid::of(element, group, DType::F16);
                let levels = f64::from(element.codes().1 - element.codes().0);
                let width = group.iter().fold(0.0f32, |w, x| w.max(x.abs())) * 2.0;
                let step = match element {
                    Element::E4M3 => 2.0 / 16.0,
                    _ => 1.0 / levels,
                };
                for x in group {
                    let code = grid.code(*x);
                    assert!(element.says(code), "{element}: {code}");
                    let apart = f64::from((grid.value(code) - x).abs());
                    let most = f64::from(width) * step * 0.51 + 6e-8 * levels;
                    assert!(apart <= most, "{element} of {group:?}: {x} off by {apart}");
                }
                assert_eq!(grid.value(grid.code(0.0)), 0.0, "{element}: zero stays");
            }
        }
    }

    #[test]
    fn sums_stay_in_32_bits() {
        for (weights, rows, group, meets) in [
            (Element::Q8, Element::Q8, 128, true),
            (Element::Q8, Element::Q16, 512, true),
            (Element::Q8, Element::Q16, 544, false),
            (asymmetric(8), Element::Q16, 256, true),
            (asymmetric(8), Element::Q16, 288, false),
            (Element::Q3, Element::Q16, 4096, true),
            (Element::Q16, Element::Q8, 32, false),
            (Element::E4M3, Element::Q8, 32, false),
        ] {
            assert_eq!(
                weights.meets(rows, group),
                meets,
                "{weights} {rows} {group}"
            );
        }
    }
}
