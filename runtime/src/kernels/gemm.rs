//! Matrix products over packed panels: the register tile and the loops around it (Goto and van de Geijn 2008).
//!
//! Each output is one chain of fused multiply-adds over `k`, from zero; blocks of `k` continue the chain through `c`,
//! which is exact. Shapes and blocks therefore change speed only. Knows no instruction set.

use super::Isa;
use super::lanes::Lanes;
use super::lines::{Line, Packed};
use super::scratch::scratch;
use ir::abi::{PANEL, STRIP};
use std::ops::Range;

/// Most rows of a panel block where those of `a` are f32, twice as many of elements half as large: with [`Isa::PANELS`] panels it
/// should stay in the first-level cache.
const BLOCK_K: usize = 128;
/// Most rows of `a` that one panel block meets before the next is fetched: `BLOCK_ROWS * BLOCK_K` stays in the second.
const BLOCK_ROWS: usize = 168;
/// Bytes after which addresses fall into the same set of the first-level cache, and how many lines a set holds: more
/// rows than that at such a stride evict each other, so they are copied.
const SET_PERIOD: usize = 4096;
const WAYS: usize = 8;
/// Rows from which on a tile fetches the panels after its own: with fewer it waits for memory anyway.
const AHEAD_FROM: usize = 6;
/// Row tiles from which on widening a block of narrow weights once beats widening it in each tile.
const WIDEN_FROM: usize = 4;
/// Rows that whole lines of codes hold, of any number of bits.
const LINE_ROWS: usize = 32;

/// One product of a few rows with a run of panels. Strides are in elements.
#[derive(Clone, Copy)]
pub(super) struct Tile<W: Packed> {
    /// Length of the sums.
    pub k: usize,
    /// First input row.
    pub a: *const W::X,
    /// Between input rows.
    pub lda: usize,
    /// First line: [`PANEL`] elements.
    pub b: *const W,
    /// Between lines of a panel.
    pub ldb: usize,
    /// Between panels.
    pub panel: usize,
    /// First output row.
    pub c: *mut f32,
    /// Between output rows.
    pub ldc: usize,
    /// Whether the sums continue from `c`.
    pub resume: bool,
}

impl<W: Packed> Tile<W> {
    /// Moves on by `panels` panels.
    pub(super) fn advance(&mut self, panels: usize) {
        self.b = self.b.wrapping_add(panels * self.panel);
        self.c = self.c.wrapping_add(panels * PANEL);
    }
}

/// `M` rows by `P` panels, accumulated in registers.
///
/// # Safety
/// `t`'s pointers are valid for the extents it states, and the CPU has the features of `V` and `W`.
#[inline(always)]
pub(super) unsafe fn tile<V: Lanes, W: Line<V>, const M: usize, const P: usize>(t: &Tile<W>) {
    // SAFETY: all offsets below stay within the extents of `t`.
    unsafe {
        let mut acc = [[V::splat(0.0); P]; M];
        if t.resume {
            for (i, row) in acc.iter_mut().enumerate() {
                for (p, sum) in row.iter_mut().enumerate() {
                    *sum = V::load(t.c.add(i * t.ldc + p * PANEL));
                }
            }
        }
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.k / W::DEPTH {
            // No closures: they would not have the caller's CPU features.
            let mut w = [W::load(b); P];
            for (p, w) in w.iter_mut().enumerate() {
                *w = W::load(b.add(p * t.panel));
                if M >= AHEAD_FROM {
                    V::prefetch(b.wrapping_add((P + p) * t.panel));
                }
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let x = W::input(a.add(i * t.lda));
                for (sum, w) in row.iter_mut().zip(w) {
                    *sum = W::fma(w, x, *sum);
                }
            }
            a = a.add(W::DEPTH);
            b = b.wrapping_add(t.ldb);
        }
        if !t.k.is_multiple_of(W::DEPTH) {
            for (i, row) in acc.iter_mut().enumerate() {
                let x = W::last(a.add(i * t.lda));
                for (p, sum) in row.iter_mut().enumerate() {
                    *sum = W::fma(W::load(b.add(p * t.panel)), x, *sum);
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (p, sum) in row.iter().enumerate() {
                sum.store(t.c.add(i * t.ldc + p * PANEL));
            }
        }
    }
}

/// Widens `lines` lines of a panel, `ld` elements apart.
///
/// # Safety
/// Both sides are valid for the lines, and the CPU has the features of `V`.
#[inline(always)]
pub(super) unsafe fn widen<V: Lanes, W: Line<V>>(
    from: *const W,
    ld: usize,
    to: *mut f32,
    lines: usize,
) {
    for i in 0..lines {
        // SAFETY: `i < lines`.
        unsafe { W::store(W::load(from.add(i * ld)), to.add(i * W::DEPTH * PANEL)) }
    }
}

/// Panels of plain weights where they lie.
#[derive(Clone, Copy)]
struct Panels<W> {
    b: *const W,
    k: usize,
    count: usize,
}

impl<W: Packed> Panels<W> {
    /// The line with row `row` of panel `p`, and elements between lines.
    fn at(&self, p: usize, row: usize) -> (*const W, usize) {
        let first = p / W::STRIP * W::STRIP;
        let ld = W::STRIP.min(self.count - first) * PANEL;
        let start = first * self.k.div_ceil(W::DEPTH) * PANEL + row / W::DEPTH * ld;
        (self.b.wrapping_add(start + (p - first) * PANEL), ld)
    }

    /// Elements between panels that lie side by side, and how many do.
    fn run(&self) -> (usize, usize) {
        match W::STRIP {
            1 => (self.k.div_ceil(W::DEPTH) * PANEL, self.count),
            strip => (PANEL, strip),
        }
    }
}

/// Boundaries of the `i`-th of `parts` nearly equal parts of `0..n`.
pub(super) fn part(n: usize, parts: usize, i: usize) -> std::ops::Range<usize> {
    n * i / parts..n * (i + 1) / parts
}

/// Any number of rows, in nearly equal tiles: a last tile of few rows would leave the multipliers waiting.
///
/// # Safety
/// As [`tile`], for `m` rows and `panels` panels.
#[inline]
pub(super) unsafe fn rows<I: Isa, W: Line<I::V>>(m: usize, panels: usize, t: Tile<W>) {
    let tiles = m.div_ceil(I::ROWS);
    for rows in (0..tiles).map(|i| part(m, tiles, i)) {
        let (a, c) = (
            t.a.wrapping_add(rows.start * t.lda),
            t.c.wrapping_add(rows.start * t.ldc),
        );
        // SAFETY: the caller's extents.
        unsafe { I::tiles(rows.len(), panels, Tile { a, c, ..t }) }
    }
}

/// A product of `m` rows of `a` with `panels` packed panels of `k` rows, wherever those are. Strides are in elements.
#[derive(Clone, Copy)]
pub(super) struct Product<X> {
    pub m: usize,
    pub k: usize,
    pub a: *const X,
    pub lda: usize,
    pub panels: usize,
    pub c: *mut f32,
    pub ldc: usize,
}

impl<X> Product<X> {
    /// Rows that evict each other from the cache at this stride.
    fn conflicts(&self, tile: usize) -> bool {
        self.meet() && self.m.min(tile) > WAYS
    }

    /// Whether all rows fall into one set of the cache.
    fn meet(&self) -> bool {
        (self.lda * size_of::<X>()).is_multiple_of(SET_PERIOD)
    }
}

/// A part of a [`Product`]: some rows by `wide` panels from `first`, over rows `k` of the panels.
pub(super) struct Block<X> {
    pub first: usize,
    pub wide: usize,
    pub k: Range<usize>,
    part: Product<X>,
    widened: *mut f32,
}

impl<X> Block<X> {
    /// The part, with its panels at `b`, `panel` elements apart, and their lines `ldb`.
    fn tile<W: Packed<X = X>>(&self, (b, ldb): (*const W, usize), panel: usize) -> Tile<W> {
        Tile {
            k: self.k.len(),
            a: self.part.a,
            lda: self.part.lda,
            b,
            ldb,
            panel,
            c: self.part.c,
            ldc: self.part.ldc,
            resume: self.k.start > 0,
        }
    }

    /// The part with panels that are widened first: `widen(panel, to)` writes lines of rows `self.k` of one.
    ///
    /// # Safety
    /// As [`blocks`], and `widen` writes no more than those rows.
    pub(super) unsafe fn widened<I: Isa, W: Line<I::V> + Packed<X = X>>(
        &self,
        widen: impl Fn(usize, *mut f32),
    ) {
        // Of whole pairs of rows.
        let panel = self.k.len().next_multiple_of(2) * PANEL;
        for p in 0..self.wide {
            widen(self.first + p, self.widened.wrapping_add(p * panel));
        }
        let b = self.widened.cast_const().cast::<W>();
        let tile = self.tile((b, PANEL), panel / W::DEPTH);
        // SAFETY: the scratch memory holds PANELS panels of BLOCK_K rows, just written; the rest is the caller's.
        unsafe { rows::<I, W>(self.part.m, self.wide, tile) }
    }
}

/// Calls `each` with blocks of the product that caches hold, in an order in which sums over `k` may continue; their rows are
/// `To`, either all the same or converted.
///
/// # Safety
/// The product's pointers are valid for its extents.
pub(super) unsafe fn blocks<I: Isa, X: Copy + Into<To>, To>(
    whole: &Product<X>,
    each: impl Fn(&Block<To>),
) {
    let Product {
        m,
        k,
        a,
        lda,
        panels,
        c,
        ldc,
    } = *whole;
    // Types of two sizes are two types; what is converted has two.
    let copies = whole.conflicts(I::ROWS) || size_of::<X>() != size_of::<To>();
    let most = BLOCK_K * size_of::<f32>() / size_of::<To>();
    let (blocks_k, blocks_m) = (k.div_ceil(most).max(1), m.div_ceil(BLOCK_ROWS));
    // Not a multiple of a cache's period.
    let stride = most + PANEL;
    let input = if copies { BLOCK_ROWS * stride } else { 0 };
    let memory = scratch(input + I::PANELS * BLOCK_K * PANEL);
    let copied = memory.cast::<To>();
    // Blocks begin at multiples of what grouped weights keep in a line.
    let edge = |x: usize| (x * LINE_ROWS).min(k);
    for block_k in (0..blocks_k).map(|i| part(k.div_ceil(LINE_ROWS), blocks_k, i)) {
        let block_k = edge(block_k.start)..edge(block_k.end);
        for block_m in (0..blocks_m).map(|i| part(m, blocks_m, i)) {
            let from = a.wrapping_add(block_m.start * lda + block_k.start);
            let mut rows = Product {
                m: block_m.len(),
                k,
                a: from.cast::<To>(),
                lda,
                panels,
                c: c.wrapping_add(block_m.start * ldc),
                ldc,
            };
            if copies {
                // SAFETY: the block lies in `a`; the scratch holds BLOCK_ROWS rows of this stride.
                unsafe {
                    for i in 0..rows.m {
                        let row = copied.add(i * stride);
                        for j in 0..block_k.len() {
                            row.add(j).write((*from.add(i * lda + j)).into());
                        }
                    }
                }
                (rows.a, rows.lda) = (copied, stride);
            }
            for first in (0..panels).step_by(I::PANELS) {
                each(&Block {
                    first,
                    wide: I::PANELS.min(panels - first),
                    k: block_k.clone(),
                    part: Product {
                        c: rows.c.wrapping_add(first * PANEL),
                        ..rows
                    },
                    widened: memory.wrapping_add(input),
                });
            }
        }
    }
}

/// [`ir::abi::GemmFn`] over lines of `Few`, as which rows meet those of weights where there are few; where there are many,
/// they are converted once to what `Many` meets, whose lines are the same bytes.
///
/// # Safety
/// As `GemmFn` states, and the CPU has the features of `I` and of the lines.
#[allow(clippy::too_many_arguments, reason = "the kernel ABI's signature")]
pub(super) unsafe extern "C" fn gemm<I: Isa, Few: Line<I::V>, Many: Line<I::V>>(
    m: usize,
    k: usize,
    a: *const u8,
    lda: usize,
    b: *const u8,
    panels: usize,
    c: *mut f32,
    ldc: usize,
) where
    Few::X: Into<Many::X>,
    Many::Widened: Line<I::V>,
{
    const { assert!(size_of::<Few>() == size_of::<Many>() && Few::DEPTH == Many::DEPTH) };
    let whole = Product {
        m,
        k,
        a: a.cast::<Few::X>(),
        lda,
        panels,
        c,
        ldc,
    };
    if m <= I::ROWS && !whole.conflicts(I::ROWS) {
        let b = Panels {
            b: b.cast::<Few>(),
            k,
            count: panels,
        };
        let (panel, run) = b.run();
        // Rows that would evict each other with the weights between them go through a strip in two parts: it is in the
        // second-level cache by then.
        let crowded = Few::STRIP > 1 && whole.meet() && m == WAYS;
        let (parts, run) = match crowded {
            true => (2, run.min(STRIP)),
            false => (1, run),
        };
        for first in (0..panels).step_by(run.max(1)) {
            let (b, ldb) = b.at(first, 0);
            for rows in (0..parts).map(|i| part(m, parts, i)) {
                let tile = Tile {
                    k,
                    a: whole.a.wrapping_add(rows.start * lda),
                    lda,
                    b,
                    ldb,
                    panel,
                    c: c.wrapping_add(rows.start * ldc + first * PANEL),
                    ldc,
                    resume: false,
                };
                // SAFETY: the caller's extents.
                unsafe { I::tiles(rows.len(), run.min(panels - first), tile) }
            }
        }
        return;
    }
    const { assert!(Many::STRIP % I::PANELS == 0 || Many::STRIP == 1) };
    let b = Panels {
        b: b.cast::<Many>(),
        k,
        count: panels,
    };
    let panel = b.run().0;
    let widens = Many::NARROW && m.div_ceil(I::ROWS) >= WIDEN_FROM;
    // SAFETY: blocks lie within the caller's extents.
    unsafe {
        blocks::<I, Few::X, Many::X>(&whole, |block| {
            if widens {
                block.widened::<I, Many::Widened>(|p, to| {
                    let (from, ld) = b.at(p, block.k.start);
                    I::widen(from, ld, to, block.k.len().div_ceil(Many::DEPTH));
                });
            } else {
                let tile = block.tile(b.at(block.first, block.k.start), panel);
                rows::<I, Many>(block.part.m, block.wide, tile);
            }
        })
    }
}
