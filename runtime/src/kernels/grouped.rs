//! Products with weights in groups that share a scale, and rows of integers to multiply them with ([`Codec::Grouped`]).
//!
//! Sums of integers are exact and each output is one chain over the groups; f32 rows meet weights that are widened as
//! [`ir::Element`] says. Shapes and blocks therefore change speed only. Knows no instruction set.
//!
//! [`Codec::Grouped`]: ir::abi::Codec::Grouped

use super::Isa;
use super::codes::{Code, Lines, quad, width};
use super::dots::{Dots, LINE, QUADS};
use super::gemm::{Product, blocks, part};
use super::lanes::Lanes;
use super::panel::{Panel, SCALES};
use ir::abi::{PANEL, STRIP};

/// Rows up to which weights are widened where they are multiplied, not once for all rows.
const FEW: usize = 4;
/// Bytes of weights that all integer rows meet before the next are read: half of a first-level cache.
const NEAR: usize = 20 << 10;
/// Rows of weights that whole lines hold, of any number of bits.
const ROWS: usize = 4 * QUADS;

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
    unsafe fn integer_tiles<const BITS: usize, const WIDE: bool>(
        rows: usize,
        panels: usize,
        t: Tile,
    );
    /// [`float_tile`] over `rows <= FEW` and all of `panels`.
    unsafe fn float_tiles<C: Code>(rows: usize, panels: usize, t: Tile);
    /// [`widen`].
    unsafe fn widen<C: Code>(panel: Panel, from: usize, rows: usize, to: *mut f32);
    /// [`quantize::quantize`](super::quantize::quantize).
    unsafe fn quantize<const WIDE: bool>(k: usize, group: usize, x: *const f32, to: *mut u8);
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
    /// Whether groups have zero points.
    zero: bool,
    /// Groups of rows of weights; those before the first are summed in `c`.
    groups: [usize; 2],
    c: *mut f32,
    ldc: usize,
}

impl Tile {
    /// Moves on by `panels` panels.
    pub(super) fn advance(&mut self, panels: usize) {
        self.first += panels;
        self.c = self.c.wrapping_add(panels * PANEL);
    }

    /// Bytes of a group of a strip, of codes that take so many bits.
    fn step(&self, bits: usize) -> usize {
        let zeros = if self.zero { PANEL } else { 0 };
        STRIP * (SCALES + zeros + self.group * PANEL * bits / 8)
    }

    /// Panel `p` from the first, of codes that take so many bits.
    fn panel(&self, bits: usize, p: usize) -> Panel {
        let zeros = if self.zero { PANEL } else { 0 };
        let step = self.step(bits);
        let (strip, within) = ((self.first + p) / STRIP, (self.first + p) % STRIP);
        let strip = self.b.wrapping_add(strip * (self.k / self.group) * step);
        Panel {
            scales: strip.wrapping_add(within * SCALES),
            zeros: strip.wrapping_add(STRIP * SCALES + within * PANEL),
            codes: strip.wrapping_add(STRIP * (SCALES + zeros) + within * LINE),
            step,
            group: self.group,
            zero: self.zero,
        }
    }
}

/// Sum of the products of four rows of codes with the activations from `x`, of 8 bits or 16.
///
/// # Safety
/// As [`Dots`].
#[inline(always)]
unsafe fn dot<D: Dots, const BITS: usize, const WIDE: bool>(
    sum: D,
    codes: D::Codes,
    x: *const u8,
) -> D {
    // SAFETY: the caller's.
    unsafe {
        match (WIDE, BITS) {
            (true, _) => sum.dot_wide(codes, x.cast()),
            (_, 8) => sum.dot_8(codes, x.cast()),
            (_, 7) => sum.dot_7(codes, x.cast()),
            _ => sum.dot_4(codes, x.cast()),
        }
    }
}

/// The statement for each [`QUADS`], of which the number is a constant, so that shifts and masks of codes are. No closures, and
/// no iterators over arrays: the first do not have the caller's CPU features, the second keep them in memory.
macro_rules! each_quad {
    ($q:ident, $body:block) => {
        each_quad!(@of $q, $body, 0 1 2 3 4 5 6 7);
    };
    (@of $q:ident, $body:block, $($number:literal)+) => {
        $({
            const { assert!($number < QUADS) };
            let $q: usize = $number;
            $body
        })+
    };
}

/// `M` rows of integers by `P` panels.
///
/// # Safety
/// `t`'s pointers are valid for the extents it states, and the CPU has the features of `D`.
#[allow(clippy::needless_range_loop, reason = "see `each_quad`")]
#[inline(always)]
pub(super) unsafe fn integer_tile<
    D: Dots,
    const BITS: usize,
    const WIDE: bool,
    const M: usize,
    const P: usize,
>(
    t: &Tile,
) {
    let excess = 1 << (BITS - 1);
    // What the dots themselves take off.
    let less = if BITS == 8 && !WIDE {
        128 - D::EXCESS_8
    } else {
        0
    };
    let size = if WIDE { 2 } else { 1 };
    let few_bits = BITS <= 4 && !WIDE;
    let groups = t.k / t.group;
    // SAFETY: all offsets below stay within the extents of `t`.
    unsafe {
        let scales = t.a.add((t.k * size).next_multiple_of(LINE));
        let mut acc = [[D::V::splat(0.0); P]; M];
        if t.groups[0] > 0 {
            for i in 0..M {
                for p in 0..P {
                    acc[i][p] = D::V::load(t.c.add(i * t.ldc + p * PANEL));
                }
            }
        }
        let panels: [Panel; P] = std::array::from_fn(|p| t.panel(width(BITS), p));
        for g in t.groups[0]..t.groups[1] {
            let mut sums = [[D::splat(0); P]; M];
            for i in 0..M {
                let codes = *scales.add(i * t.lda).cast::<i32>().add(groups + g);
                for p in 0..P {
                    sums[i][p] = panels[p].points(g, excess, less, codes.wrapping_neg());
                }
            }
            for rows in 0..t.group / ROWS {
                let x = t.a.add((g * t.group + rows * ROWS) * size);
                let mut lines = [Lines(std::ptr::null()); P];
                for p in 0..P {
                    lines[p] = panels[p].lines(width(BITS), g, rows);
                }
                let mut begun = sums;
                if few_bits {
                    for i in 0..M {
                        for p in 0..P {
                            begun[i][p] = sums[i][p].begin_4();
                        }
                    }
                }
                each_quad!(q, {
                    let mut codes = [quad::<D, BITS>(lines[0], q); P];
                    for p in 1..P {
                        codes[p] = quad::<D, BITS>(lines[p], q);
                    }
                    for i in 0..M {
                        let x = x.add(i * t.lda + 4 * q * size);
                        for p in 0..P {
                            begun[i][p] = dot::<D, BITS, WIDE>(begun[i][p], codes[p], x);
                        }
                    }
                });
                for i in 0..M {
                    for p in 0..P {
                        sums[i][p] = match few_bits {
                            true => sums[i][p].end_4(begun[i][p]),
                            false => begun[i][p],
                        };
                    }
                }
            }
            for p in 0..P {
                let weight = D::V::load_f16(panels[p].scales(g));
                for i in 0..M {
                    let scale = D::V::splat(*scales.add(i * t.lda).cast::<f32>().add(g));
                    acc[i][p] = sums[i][p].to_f32().fma(scale.mul(weight), acc[i][p]);
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

/// `M` rows of floats by `P` panels.
///
/// # Safety
/// As [`integer_tile`].
#[allow(clippy::needless_range_loop, reason = "see `each_quad`")]
#[inline(always)]
pub(super) unsafe fn float_tile<D: Dots, C: Code, const M: usize, const P: usize>(t: &Tile) {
    // SAFETY: all offsets below stay within the extents of `t`.
    unsafe {
        let mut acc = [[D::V::splat(0.0); P]; M];
        let panels: [Panel; P] = std::array::from_fn(|p| t.panel(C::WIDTH, p));
        for g in 0..t.k / t.group {
            let mut scales = [panels[0].scaling::<D>(g, C::EXCESS); P];
            for p in 1..P {
                scales[p] = panels[p].scaling::<D>(g, C::EXCESS);
            }
            for rows in 0..t.group / ROWS {
                let x = t.a.cast::<f32>().add(g * t.group + rows * ROWS);
                let mut lines = [Lines(std::ptr::null()); P];
                for p in 0..P {
                    lines[p] = panels[p].lines(C::WIDTH, g, rows);
                }
                each_quad!(q, {
                    for p in 0..P {
                        let weights = C::widen::<D>(lines[p], q, scales[p]);
                        for k in 0..4 {
                            for i in 0..M {
                                let x = *x.cast::<u8>().add(i * t.lda).cast::<f32>().add(4 * q + k);
                                acc[i][p] = D::V::splat(x).fma(weights[k], acc[i][p]);
                            }
                        }
                    }
                });
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (p, acc) in row.iter().enumerate() {
                acc.store(t.c.add(i * t.ldc + p * PANEL));
            }
        }
    }
}

/// Rows `from..from + rows` of a panel as f32 `[rows][PANEL]`; both are multiples of 32.
///
/// # Safety
/// The panel has the rows, `to` room for them; features as [`Dots`].
#[allow(clippy::needless_range_loop, reason = "see `each_quad`")]
#[inline(always)]
pub(super) unsafe fn widen<D: Dots, C: Code>(panel: Panel, from: usize, rows: usize, to: *mut f32) {
    for row in (from..from + rows).step_by(ROWS) {
        // SAFETY: the caller's extents.
        unsafe {
            let (group, within) = (row / panel.group, row % panel.group / ROWS);
            let scaling = panel.scaling::<D>(group, C::EXCESS);
            let lines = panel.lines(C::WIDTH, group, within);
            let to = to.add((row - from) * PANEL);
            each_quad!(q, {
                let weights = C::widen::<D>(lines, q, scaling);
                for k in 0..4 {
                    weights[k].store(to.add((4 * q + k) * PANEL));
                }
            });
        }
    }
}

/// [`ir::abi::GroupedGemmFn`] of integer rows.
///
/// # Safety
/// As `GroupedGemmFn` states, and the CPU has the features of `G`.
#[allow(clippy::too_many_arguments, reason = "the kernel ABI's signature")]
pub(super) unsafe extern "C" fn integer_gemm<
    G: GroupedIsa,
    const BITS: usize,
    const ZERO: bool,
    const WIDE: bool,
>(
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
    let mut t = Tile {
        k,
        group,
        a,
        lda,
        b,
        first: 0,
        zero: ZERO,
        groups: [0, k / group],
        c,
        ldc,
    };
    if m <= G::ROWS {
        // SAFETY: the caller's extents.
        return unsafe { G::integer_tiles::<BITS, WIDE>(m, panels, t) };
    }
    let (tiles, groups) = (m.div_ceil(G::ROWS), k / group);
    let near = (NEAR / t.step(width(BITS))).max(1);
    for first in (0..panels).step_by(STRIP) {
        for from in (0..groups).step_by(near) {
            for rows in (0..tiles).map(|i| part(m, tiles, i)) {
                t.first = first;
                t.groups = [from, groups.min(from + near)];
                t.a = a.wrapping_add(rows.start * lda);
                t.c = c.wrapping_add(rows.start * ldc + first * PANEL);
                // SAFETY: the caller's extents.
                unsafe { G::integer_tiles::<BITS, WIDE>(rows.len(), STRIP.min(panels - first), t) }
            }
        }
    }
}

/// [`ir::abi::GroupedGemmFn`] of f32 rows.
///
/// # Safety
/// As [`integer_gemm`].
#[allow(clippy::too_many_arguments, reason = "the kernel ABI's signature")]
pub(super) unsafe extern "C" fn float_gemm<I: Isa, G: GroupedIsa, C: Code, const ZERO: bool>(
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
        zero: ZERO,
        groups: [0, k / group],
        c,
        ldc,
    };
    if m <= FEW {
        // SAFETY: the caller's extents.
        return unsafe { G::float_tiles::<C>(m, panels, t) };
    }
    let product = Product {
        m,
        k,
        a: a.cast::<f32>(),
        lda: lda / size_of::<f32>(),
        panels,
        c,
        ldc,
    };
    // SAFETY: the caller's extents; blocks of rows are multiples of 32, as groups are.
    unsafe {
        blocks::<I, f32, f32>(&product, |block| {
            block.widened::<I, f32>(|p, to| {
                G::widen::<C>(t.panel(C::WIDTH, p), block.k.start, block.k.len(), to)
            })
        })
    }
}
