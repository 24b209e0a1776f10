//! Matrix products over packed panels: the register tile and the loops around it (Goto and van de Geijn 2008).
//!
//! Each output is one chain of fused multiply-adds over `k`, from zero; blocks of `k` continue the chain through `c`,
//! which is exact. Shapes and blocks therefore change speed only. Knows no instruction set.

use super::Isa;
use super::lanes::Lanes;
use super::scratch::scratch;
use super::weight::Weight;
use ir::abi::{PANEL, STRIP};
use std::ops::Range;

/// Most rows of a panel block: with [`Isa::PANELS`] panels it should stay in the first-level cache.
const BLOCK_K: usize = 128;
/// Most rows of `a` that one panel block meets before the next is fetched: `BLOCK_ROWS * BLOCK_K` stays in the second.
const BLOCK_ROWS: usize = 168;
/// Elements after which addresses fall into the same set of the first-level cache, and how many lines a set holds: more
/// rows than that at such a stride evict each other, so they are copied.
const SET_PERIOD: usize = 1024;
const WAYS: usize = 8;
/// Rows from which on a tile fetches the panels after its own: with fewer it waits for memory anyway.
const AHEAD_FROM: usize = 6;
/// Row tiles from which on widening a block of narrow weights once beats widening it in each tile.
const WIDEN_FROM: usize = 4;

/// Rows that whole lines of codes hold, of any number of bits; see [`ir::abi::Codec::panel`].
const LINE_ROWS: usize = 32;

/// One product of a few rows with a run of panels. Strides are in elements.
#[derive(Clone, Copy)]
pub(super) struct Tile<W> {
    /// Length of the sums.
    pub k: usize,
    /// First input row.
    pub a: *const f32,
    /// Between input rows.
    pub lda: usize,
    /// First weight row: [`PANEL`] elements.
    pub b: *const W,
    /// Between weight rows of a panel.
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

impl<W> Tile<W> {
    /// Moves on by `panels` panels.
    pub(super) fn advance(&mut self, panels: usize) {
        self.b = self.b.wrapping_add(panels * self.panel);
        self.c = self.c.wrapping_add(panels * PANEL);
    }
}

/// `M` rows by `P` panels, accumulated in registers.
///
/// # Safety
/// `t`'s pointers are valid for the extents it states, and the CPU has the features of `V`.
#[inline(always)]
pub(super) unsafe fn tile<V: Lanes, W: Weight, const M: usize, const P: usize>(t: &Tile<W>) {
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
        for _ in 0..t.k {
            let mut w = [V::splat(0.0); P];
            for (p, w) in w.iter_mut().enumerate() {
                *w = W::load(b.add(p * t.panel));
                if M >= AHEAD_FROM {
                    V::prefetch(b.wrapping_add((P + p) * t.panel));
                }
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let x = V::splat(*a.add(i * t.lda));
                for (sum, w) in row.iter_mut().zip(w) {
                    *sum = x.fma(w, *sum);
                }
            }
            a = a.add(1);
            b = b.wrapping_add(t.ldb);
        }
        for (i, row) in acc.iter().enumerate() {
            for (p, sum) in row.iter().enumerate() {
                sum.store(t.c.add(i * t.ldc + p * PANEL));
            }
        }
    }
}

/// Widens `rows` rows of a panel, `ld` elements apart.
///
/// # Safety
/// Both sides are valid for the rows, and the CPU has the features of `V`.
#[inline(always)]
pub(super) unsafe fn widen<V: Lanes, W: Weight>(
    from: *const W,
    ld: usize,
    to: *mut f32,
    rows: usize,
) {
    for i in 0..rows {
        // SAFETY: `i < rows`.
        unsafe { W::load::<V>(from.add(i * ld)).store(to.add(i * PANEL)) }
    }
}

/// Panels of plain weights where they lie.
#[derive(Clone, Copy)]
struct Panels<W> {
    b: *const W,
    k: usize,
    count: usize,
}

impl<W: Weight> Panels<W> {
    /// Row `row` of panel `p`, and elements between rows.
    fn at(&self, p: usize, row: usize) -> (*const W, usize) {
        let first = p / W::STRIP * W::STRIP;
        let ld = W::STRIP.min(self.count - first) * PANEL;
        let start = first * self.k * PANEL + row * ld;
        (self.b.wrapping_add(start + (p - first) * PANEL), ld)
    }

    /// Elements between panels that lie side by side, and how many do.
    fn run(&self) -> (usize, usize) {
        match W::STRIP {
            1 => (self.k * PANEL, self.count),
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
pub(super) unsafe fn rows<I: Isa, W: Weight>(m: usize, panels: usize, t: Tile<W>) {
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
pub(super) struct Product {
    pub m: usize,
    pub k: usize,
    pub a: *const f32,
    pub lda: usize,
    pub panels: usize,
    pub c: *mut f32,
    pub ldc: usize,
}

impl Product {
    /// Rows that evict each other from the cache at this stride.
    fn conflicts(&self, tile: usize) -> bool {
        self.lda.is_multiple_of(SET_PERIOD) && self.m.min(tile) > WAYS
    }
}

/// A part of a [`Product`]: some rows by `wide` panels from `first`, over rows `k` of the panels.
pub(super) struct Block {
    pub first: usize,
    pub wide: usize,
    pub k: Range<usize>,
    part: Product,
    widened: *mut f32,
}

impl Block {
    /// The part, with its panels at `b`, `panel` elements apart, and their rows `ldb`.
    fn tile<W>(&self, (b, ldb): (*const W, usize), panel: usize) -> Tile<W> {
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

    /// The part with panels that are widened first: `widen(panel, to)` writes rows `self.k` of one as f32.
    ///
    /// # Safety
    /// As [`blocks`], and `widen` writes no more than those rows.
    pub(super) unsafe fn widened<I: Isa>(&self, widen: impl Fn(usize, *mut f32)) {
        let panel = self.k.len() * PANEL;
        for p in 0..self.wide {
            widen(self.first + p, self.widened.wrapping_add(p * panel));
        }
        let tile = self.tile((self.widened.cast_const(), PANEL), panel);
        // SAFETY: the scratch memory holds PANELS panels of BLOCK_K rows, just written; the rest is the caller's.
        unsafe { rows::<I, f32>(self.part.m, self.wide, tile) }
    }
}

/// Calls `each` with blocks of the product that caches hold, in an order in which sums over `k` may continue.
///
/// # Safety
/// The product's pointers are valid for its extents.
pub(super) unsafe fn blocks<I: Isa>(whole: &Product, each: impl Fn(&Block)) {
    let Product {
        m,
        k,
        a,
        lda,
        panels,
        c,
        ldc,
    } = *whole;
    let conflict = whole.conflicts(I::ROWS);
    let (blocks_k, blocks_m) = (k.div_ceil(BLOCK_K).max(1), m.div_ceil(BLOCK_ROWS));
    let input = if conflict {
        BLOCK_ROWS * (BLOCK_K + PANEL)
    } else {
        0
    };
    let copied = scratch(input + I::PANELS * BLOCK_K * PANEL);
    // Blocks begin at multiples of what grouped weights keep in a line.
    let edge = |x: usize| (x * LINE_ROWS).min(k);
    for block_k in (0..blocks_k).map(|i| part(k.div_ceil(LINE_ROWS), blocks_k, i)) {
        let block_k = edge(block_k.start)..edge(block_k.end);
        for block_m in (0..blocks_m).map(|i| part(m, blocks_m, i)) {
            let mut rows = Product {
                m: block_m.len(),
                a: a.wrapping_add(block_m.start * lda + block_k.start),
                c: c.wrapping_add(block_m.start * ldc),
                ..*whole
            };
            if conflict {
                // SAFETY: the block lies in `a`; the scratch holds BLOCK_ROWS rows of this stride.
                unsafe {
                    for i in 0..rows.m {
                        let row = copied.add(i * (BLOCK_K + PANEL));
                        std::ptr::copy_nonoverlapping(rows.a.add(i * lda), row, block_k.len());
                    }
                }
                (rows.a, rows.lda) = (copied, BLOCK_K + PANEL);
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
                    widened: copied.wrapping_add(input),
                });
            }
        }
    }
}

/// [`ir::abi::GemmFn`].
///
/// # Safety
/// As `GemmFn` states, and the CPU has the features of `I`.
#[allow(clippy::too_many_arguments, reason = "the kernel ABI's signature")]
pub(super) unsafe extern "C" fn gemm<I: Isa, W: Weight>(
    m: usize,
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const u8,
    panels: usize,
    c: *mut f32,
    ldc: usize,
) {
    let b = Panels {
        b: b.cast::<W>(),
        k,
        count: panels,
    };
    let (panel, run) = b.run();
    let whole = Product {
        m,
        k,
        a,
        lda,
        panels,
        c,
        ldc,
    };
    if m <= I::ROWS && !whole.conflicts(I::ROWS) {
        // Rows that would evict each other with the weights between them go through a strip in two parts: it is in the
        // second-level cache by then.
        let crowded = W::NARROW && lda.is_multiple_of(SET_PERIOD) && m == WAYS;
        let (parts, run) = match crowded {
            true => (2, run.min(STRIP)),
            false => (1, run),
        };
        for first in (0..panels).step_by(run.max(1)) {
            let (b, ldb) = b.at(first, 0);
            for rows in (0..parts).map(|i| part(m, parts, i)) {
                let tile = Tile {
                    k,
                    a: a.wrapping_add(rows.start * lda),
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
    const { assert!(W::STRIP % I::PANELS == 0 || W::STRIP == 1) };
    let widens = W::NARROW && m.div_ceil(I::ROWS) >= WIDEN_FROM;
    // SAFETY: blocks lie within the caller's extents.
    unsafe {
        blocks::<I>(&whole, |block| {
            if widens {
                block.widened::<I>(|p, to| {
                    let (from, ld) = b.at(p, block.k.start);
                    I::widen(from, ld, to, block.k.len());
                });
            } else {
                let tile = block.tile(b.at(block.first, block.k.start), panel);
                rows::<I, W>(block.part.m, block.wide, tile);
            }
        })
    }
}
