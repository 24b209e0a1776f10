//! A panel of weights in groups ([`Codec::Grouped`]): where its scales, zero points and codes are. Knows no product.
//!
//! [`Codec::Grouped`]: ir::abi::Codec::Grouped

use super::codes::Lines;
use super::dots::{Dots, LINE};
use super::lanes::Lanes;
use half::f16;
use ir::abi::{PANEL, STRIP};

/// Bytes of a panel's scales of one group, f16.
pub(super) const SCALES: usize = PANEL * 2;

/// Where a panel is: its scales, zero points and lines of codes of the first group, and bytes from group to group.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    pub scales: *const u8,
    pub zeros: *const u8,
    pub codes: *const u8,
    pub step: usize,
    pub group: usize,
    pub zero: bool,
}

impl Panel {
    /// Sixteen scales of a group.
    pub(super) fn scales(self, group: usize) -> *const f16 {
        self.scales.wrapping_add(group * self.step).cast()
    }

    /// The lines of 32 rows of a group, of codes that take so many bits.
    pub(super) fn lines(self, bits: usize, group: usize, rows: usize) -> Lines {
        let first = group * self.step + rows * bits * STRIP * LINE;
        Lines(self.codes.wrapping_add(first))
    }

    /// What is taken off each code of a group, less `less`, `times` a number.
    ///
    /// # Safety
    /// The panel has the group; features as [`Dots`].
    #[inline(always)]
    pub(super) unsafe fn points<D: Dots>(
        self,
        group: usize,
        excess: i32,
        less: i32,
        times: i32,
    ) -> D {
        // SAFETY: the caller's; zero points are there where there are any.
        unsafe {
            match self.zero {
                true => D::points(self.zeros.wrapping_add(group * self.step), -less, times),
                false => D::splat((excess - less).wrapping_mul(times)),
            }
        }
    }

    /// Scales of a group, and what their codes' excess or zero points take off each weight.
    ///
    /// # Safety
    /// As [`Panel::points`].
    #[inline(always)]
    pub(super) unsafe fn scaling<D: Dots>(self, group: usize, excess: i32) -> [D::V; 2] {
        // SAFETY: the caller's.
        unsafe {
            let scale = D::V::load_f16(self.scales(group));
            let zero = self.points::<D>(group, excess, 0, -1).to_f32();
            [scale, scale.mul(zero)]
        }
    }
}
