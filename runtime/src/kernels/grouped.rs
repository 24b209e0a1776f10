//! Products with weights in groups that share a scale, and rows of integers to multiply them with ([`Codec::Grouped`]).
//!
//! Sums of integers are exact and each output is one chain over the groups; f32 rows meet weights that are widened
//! exactly. Shapes and blocks therefore change speed only. Knows no instruction set.
//!
//! [`Codec::Grouped`]: ir::abi::Codec::Grouped

use super::Isa;
use super::dots::{Dots, LINE};
use super::gemm::{Product, blocks, part};
use super::lanes::Lanes;
use half::f16;
use ir::abi::{PANEL, STRIP};

/// Rows up to which weights are widened where they are multiplied, not once for all rows.
const FEW: usize = 4;

/// An instruction set's tiles over grouped weights.
///
/// # Safety
/// The methods require the CPU features of the implementation.
pub(super) trait GroupedIsa {
    /// Sums of integers.
    type D: Dots;
    /// Most rows of a tile of integer rows.
    const ROWS: usize;

    /// [`integer_tile`] over `rows <= ROWS` and all of `panels`.
    unsafe fn integer_tiles<const BITS: usize>(rows: usize, panels: usize, t: Tile);
    /// [`float_tile`] over `rows <= FEW` and all of `panels`.
    unsafe fn float_tiles<const BITS: usize>(rows: usize, panels: usize, t: Tile);
    /// [`widen`].
    unsafe fn widen<const BITS: usize>(panel: Panel, from: usize, rows: usize, to: *mut f32);
    /// [`quantize::quantize`](super::quantize::quantize).
    unsafe fn quantize(k: usize, group: usize, x: *const f32, to: *mut u8);
}

/// Bytes of a panel's scales of one group, f16.
const SCALES: usize = PANEL * 2;

/// Where a panel is: its scales and lines of codes of the first group, and bytes from group to group.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    scales: *const u8,
    codes: *const u8,
    step: usize,
    group: usize,
}

impl Panel {
    /// Sixteen scales of a group.
    fn scales(self, group: usize) -> *const f16 {
        self.scales.wrapping_add(group * self.step).cast()
    }

    /// Line `line` of the codes of a group.
    fn codes(self, group: usize, line: usize) -> *const u8 {
        self.codes
            .wrapping_add(group * self.step + line * STRIP * LINE)
    }
}

/// One product of a few rows with a run of panels.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    k: usize,
    group: usize,
    /// First row, and bytes between rows.
    a: *const u8,
    lda: usize,
    /// Strips, and which panel of them is the first.
    b: *const u8,
    first: usize,
    c: *mut f32,
    ldc: usize,
}

impl Tile {
    /// Moves on by `panels` panels.
    pub(super) fn advance(&mut self, panels: usize) {
        self.first += panels;
        self.c = self.c.wrapping_add(panels * PANEL);
    }

    /// Panel `p` from the first.
    fn panel<const BITS: usize>(&self, p: usize) -> Panel {
        let step = STRIP * (SCALES + self.group * PANEL * BITS / 8);
        let (strip, within) = ((self.first + p) / STRIP, (self.first + p) % STRIP);
        let strip = self.b.wrapping_add(strip * (self.k / self.group) * step);
        Panel {
            scales: strip.wrapping_add(within * SCALES),
            codes: strip.wrapping_add(STRIP * SCALES + within * LINE),
            step,
            group: self.group,
        }
    }
}

/// Sum of the products of a line of codes with the activations at `x`.
///
/// # Safety
/// As [`Dots`], for the codes of 32 / BITS rows.
#[inline(always)]
unsafe fn dot<D: Dots, const BITS: usize>(sum: D, codes: D::Codes, x: *const i8) -> D {
    // SAFETY: the caller's.
    unsafe {
        match BITS {
            8 => sum.dot_8(codes, x),
            _ => sum.dot_4(D::low(codes), x).dot_4(D::high(codes), x.add(4)),
        }
    }
}

/// `M` rows of integers by `P` panels.
///
/// # Safety
/// `t`'s pointers are valid for the extents it states, and the CPU has the features of `D`.
#[inline(always)]
pub(super) unsafe fn integer_tile<D: Dots, const BITS: usize, const M: usize, const P: usize>(
    t: &Tile,
) {
    let excess = if BITS == 8 { D::EXCESS_8 } else { 8 };
    let lines = t.group * BITS / 32;
    let groups = t.k / t.group;
    // SAFETY: all offsets below stay within the extents of `t`.
    unsafe {
        let scales = t.a.add(t.k.next_multiple_of(LINE));
        let mut acc = [[D::V::splat(0.0); P]; M];
        let panels: [Panel; P] = std::array::from_fn(|p| t.panel::<BITS>(p));
        for g in 0..groups {
            let mut sums = [[D::splat(0); P]; M];
            for (i, row) in sums.iter_mut().enumerate() {
                let sum = scales.add(i * t.lda).cast::<i32>().add(groups + g);
                *row = [D::splat(-excess * *sum); P];
            }
            let x = t.a.add(g * t.group).cast::<i8>();
            for l in 0..lines {
                let codes = panels.map(|p| D::codes(p.codes(g, l)));
                for (i, row) in sums.iter_mut().enumerate() {
                    let x = x.add(i * t.lda + l * 32 / BITS);
                    for (sum, codes) in row.iter_mut().zip(codes) {
                        *sum = dot::<D, BITS>(*sum, codes, x);
                    }
                }
            }
            let weights = panels.map(|p| D::V::load_f16(p.scales(g)));
            for (i, (row, sums)) in acc.iter_mut().zip(sums).enumerate() {
                let scale = D::V::splat(*scales.add(i * t.lda).cast::<f32>().add(g));
                for ((acc, sum), weight) in row.iter_mut().zip(sums).zip(weights) {
                    *acc = sum.to_f32().fma(scale.mul(weight), *acc);
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (p, acc) in row.iter().enumerate() {
                acc.store(t.c.add(i * t.ldc + p * PANEL));
            }
        }
    }
}

/// Runs the body for each weight row of a line: its number within the line and sixteen weights. A weight is the code
/// times the scale: exact, since a code has 8 bits and a scale 11. A macro, because a closure that is not inlined loses
/// the CPU features of its caller.
macro_rules! weights {
    ($D:ty, $bits:expr, $codes:expr, $scale:expr, |$k:ident, $w:ident| $body:block) => {
        let (codes, scale) = ($codes, $scale);
        let zero = scale.mul(<$D>::V::splat(if $bits == 8 { -128.0 } else { -8.0 }));
        let mut half = 0;
        while half < 8 / $bits {
            let codes = match ($bits, half) {
                (8, _) => codes,
                (_, 0) => <$D>::low(codes),
                _ => <$D>::high(codes),
            };
            let rows = [
                <$D>::widen::<0>(codes).fma(scale, zero),
                <$D>::widen::<1>(codes).fma(scale, zero),
                <$D>::widen::<2>(codes).fma(scale, zero),
                <$D>::widen::<3>(codes).fma(scale, zero),
            ];
            let mut row = 0;
            while row < 4 {
                let ($k, $w) = (4 * half + row, rows[row]);
                $body
                row += 1;
            }
            half += 1;
        }
    };
}

/// `M` rows of floats by `P` panels.
///
/// # Safety
/// As [`integer_tile`].
#[inline(always)]
pub(super) unsafe fn float_tile<D: Dots, const BITS: usize, const M: usize, const P: usize>(
    t: &Tile,
) {
    let lines = t.group * BITS / 32;
    // SAFETY: all offsets below stay within the extents of `t`.
    unsafe {
        let mut acc = [[D::V::splat(0.0); P]; M];
        let panels: [Panel; P] = std::array::from_fn(|p| t.panel::<BITS>(p));
        for g in 0..t.k / t.group {
            let scales = panels.map(|p| D::V::load_f16(p.scales(g)));
            for l in 0..lines {
                let x = t.a.cast::<f32>().add(g * t.group + l * 32 / BITS);
                for p in 0..P {
                    let codes = D::codes(panels[p].codes(g, l));
                    weights!(D, BITS, codes, scales[p], |k, w| {
                        for (i, row) in acc.iter_mut().enumerate() {
                            let x = *x.cast::<u8>().add(i * t.lda).cast::<f32>().add(k);
                            row[p] = D::V::splat(x).fma(w, row[p]);
                        }
                    });
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (p, acc) in row.iter().enumerate() {
                acc.store(t.c.add(i * t.ldc + p * PANEL));
            }
        }
    }
}

/// Rows `from..from + rows` of a panel as f32 `[rows][PANEL]`; both are multiples of 8.
///
/// # Safety
/// The panel has the rows, `to` room for them; features as [`Dots`].
#[inline(always)]
pub(super) unsafe fn widen<D: Dots, const BITS: usize>(
    panel: Panel,
    from: usize,
    rows: usize,
    to: *mut f32,
) {
    let step = 32 / BITS;
    for row in (from..from + rows).step_by(step) {
        // SAFETY: the caller's extents.
        unsafe {
            let (group, within) = (row / panel.group, row % panel.group);
            let scale = D::V::load_f16(panel.scales(group));
            let codes = D::codes(panel.codes(group, within / step));
            let to = to.add((row - from) * PANEL);
            weights!(D, BITS, codes, scale, |k, w| {
                w.store(to.add(k * PANEL));
            });
        }
    }
}

/// [`ir::abi::GroupedGemmFn`] of integer rows.
///
/// # Safety
/// As `GroupedGemmFn` states, and the CPU has the features of `G`.
#[allow(clippy::too_many_arguments, reason = "the kernel ABI's signature")]
pub(super) unsafe extern "C" fn integer_gemm<G: GroupedIsa, const BITS: usize>(
    m: usize,
    k: usize,
    group: usize,
    a: *const u8,
    lda: usize,
    b: *const u8,
    panels: usize,
    c: *mut f32,
    ldc: usize,
) {
    let tiles = m.div_ceil(G::ROWS);
    for rows in (0..tiles).map(|i| part(m, tiles, i)) {
        let t = Tile {
            k,
            group,
            a: a.wrapping_add(rows.start * lda),
            lda,
            b,
            first: 0,
            c: c.wrapping_add(rows.start * ldc),
            ldc,
        };
        // SAFETY: the caller's extents.
        unsafe { G::integer_tiles::<BITS>(rows.len(), panels, t) }
    }
}

/// [`ir::abi::GroupedGemmFn`] of f32 rows.
///
/// # Safety
/// As [`integer_gemm`].
#[allow(clippy::too_many_arguments, reason = "the kernel ABI's signature")]
pub(super) unsafe extern "C" fn float_gemm<I: Isa, G: GroupedIsa, const BITS: usize>(
    m: usize,
    k: usize,
    group: usize,
    a: *const u8,
    lda: usize,
    b: *const u8,
    panels: usize,
    c: *mut f32,
    ldc: usize,
) {
    let t = Tile {
        k,
        group,
        a,
        lda,
        b,
        first: 0,
        c,
        ldc,
    };
    if m <= FEW {
        // SAFETY: the caller's extents.
        return unsafe { G::float_tiles::<BITS>(m, panels, t) };
    }
    let product = Product {
        m,
        k,
        a: a.cast(),
        lda: lda / size_of::<f32>(),
        panels,
        c,
        ldc,
    };
    // SAFETY: the caller's extents; blocks of rows are multiples of 8, as groups are.
    unsafe {
        blocks::<I>(&product, |block| {
            block.widened::<I>(|p, to| {
                G::widen::<BITS>(t.panel::<BITS>(p), block.k.start, block.k.len(), to)
            })
        })
    }
}
