//! Attention with an online softmax over blocks of keys (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022).
//!
//! Blocks are counted from each row's own first key, every score and every output element is one chain of fused
//! multiply-adds, and the reductions of a block are fixed trees: a row's bits depend on that row alone. Rows that start
//! at the same key share packed keys and values. Knows no instruction set.

use super::Isa;
use super::gemm::{Tile, part, rows};
use super::lanes::{Lanes, exp2, tanh};
use super::scratch::scratch;
use ir::abi::{AttentionArgs, PANEL};
use std::f32::consts::LOG2_E;

/// Keys of a block. Part of the definition of the result.
const KEYS: usize = 128;
/// Most rows (query positions times heads) that share a packed block.
const ROWS: usize = 64;

/// [`ir::abi::AttentionFn`].
///
/// # Safety
/// As [`AttentionArgs`] states, and the CPU has the features of `I`.
pub(super) unsafe extern "C" fn attention<I: Isa>(args: *const AttentionArgs) {
    // SAFETY: the caller's.
    unsafe { I::attend(&*args) }
}

/// What a row carries from block to block. Scores are in units of `ln 2`, so that weights are powers of two.
#[derive(Clone, Copy)]
struct Row {
    /// Largest score so far.
    peak: f32,
    /// Sums of `2^(score - peak)` so far, over every [`PANEL`]-th key.
    sums: [f32; PANEL],
}

/// Query positions `tokens` and heads `heads` of the group, all of which start at key `lo`.
struct Rows {
    tokens: std::ops::Range<usize>,
    heads: std::ops::Range<usize>,
    lo: usize,
}

impl Rows {
    fn len(&self) -> usize {
        self.tokens.len() * self.heads.len()
    }

    /// Position and head of row `r`.
    fn at(&self, r: usize) -> (usize, usize) {
        (
            self.tokens.start + r / self.heads.len(),
            self.heads.start + r % self.heads.len(),
        )
    }
}

/// [`AttentionArgs`]' meaning.
///
/// # Safety
/// As [`attention`].
#[inline(always)]
pub(super) unsafe fn attend<I: Isa>(args: &AttentionArgs) {
    let per_call = args.group.min(ROWS);
    for first in (0..args.group).step_by(per_call.max(1)) {
        let heads = first..args.group.min(first + per_call);
        let mut t = 0;
        while t < args.tokens {
            // SAFETY: `lo` has `tokens` elements.
            let lo = |t: usize| unsafe { *args.lo.add(t) };
            let most = args.tokens.min(t + ROWS / heads.len());
            let end = (t + 1..most).find(|&u| lo(u) != lo(t)).unwrap_or(most);
            let rows = Rows {
                tokens: t..end,
                heads: heads.clone(),
                lo: lo(t).max(0) as usize,
            };
            // SAFETY: the caller's.
            unsafe { attend_rows::<I>(args, &rows) };
            t = end;
        }
    }
}

/// One set of rows against all its keys.
///
/// # Safety
/// As [`attention`].
#[inline(always)]
unsafe fn attend_rows<I: Isa>(args: &AttentionArgs, set: &Rows) {
    let (n, dim) = (set.len(), args.head_dim);
    let panels = dim.div_ceil(PANEL);
    let wide = panels * PANEL;
    // One more line than needed, so that rows of a power-of-two width do not share a cache set.
    let ldq = wide + PANEL;
    let tiles = n.div_ceil(I::ROWS);
    // Packed values pay when several tiles read them, and give odd widths their padding.
    let pack_values = tiles > 1 || wide != dim;

    let sizes = [
        n * ldq,
        n * ldq,
        I::ROWS * KEYS,
        KEYS * dim,
        if pack_values { KEYS * wide } else { 0 },
    ];
    let mut next = scratch(sizes.iter().map(|s| s.next_multiple_of(PANEL)).sum());
    let [q, out, scores, keys, values] = sizes.map(|size| {
        let this = next;
        next = next.wrapping_add(size.next_multiple_of(PANEL));
        this
    });
    let mut state = [Row {
        peak: f32::NEG_INFINITY,
        sums: [0.0; PANEL],
    }; ROWS];
    let mut counts = [0; ROWS];

    // Scores come out of the product as the softmax needs them.
    let factor = if args.softcap > 0.0 {
        args.scale / args.softcap
    } else {
        args.scale * LOG2_E
    };

    // SAFETY: every pointer is to scratch of the sizes above or to the caller's extents; the features are the caller's.
    unsafe {
        for r in 0..n {
            let (t, h) = set.at(r);
            let from = args.q.add(t * args.q_stride + h * dim);
            for d in 0..dim {
                *q.add(r * ldq + d) = *from.add(d) * factor;
            }
        }
        let hi = |t: usize| (*args.hi.add(t)).max(0) as usize;
        let end = set.tokens.clone().map(hi).max().unwrap_or(0);
        for (block, start) in (set.lo..end).step_by(KEYS).enumerate() {
            let width = KEYS.min(end - start);
            let from = start * args.kv_stride;
            pack_keys::<I::V>(args.k.add(from), args.kv_stride, width, dim, keys);
            if pack_values {
                pack_rows(args.v.add(from), args.kv_stride, width, dim, values);
            }
            for tile in (0..tiles).map(|i| part(n, tiles, i)) {
                let counts = &mut counts[..tile.len()];
                for (count, r) in counts.iter_mut().zip(tile.clone()) {
                    *count = hi(set.at(r).0).saturating_sub(start).min(KEYS);
                }
                let most = counts.iter().copied().max().unwrap_or(0);
                if most == 0 {
                    continue;
                }
                let product = Tile {
                    k: dim,
                    a: q.add(tile.start * ldq).cast_const(),
                    lda: ldq,
                    b: keys.cast_const(),
                    ldb: PANEL,
                    panel: dim * PANEL,
                    c: scores,
                    ldc: KEYS,
                    resume: false,
                };
                rows::<I, f32>(tile.len(), most.div_ceil(PANEL), product);
                for (i, r) in tile.clone().enumerate() {
                    if counts[i] > 0 {
                        let shrink = softmax::<I::V>(
                            args.softcap,
                            scores.add(i * KEYS),
                            counts[i],
                            &mut state[r],
                        );
                        if block > 0 && shrink != 1.0 {
                            rescale::<I::V>(out.add(r * ldq), panels, shrink);
                        }
                    }
                }
                let (b, ldb, panel) = match pack_values {
                    true => (values.cast_const(), PANEL, KEYS * PANEL),
                    false => (args.v.add(from), args.kv_stride, PANEL),
                };
                // Keys that all rows of the tile attend to, then each row's own rest: no row ever meets, not even with
                // weight zero, a key outside its interval.
                let shared = counts.iter().copied().min().unwrap_or(0);
                let c = out.add(tile.start * ldq);
                let product = Tile {
                    k: shared,
                    a: scores.cast_const(),
                    lda: KEYS,
                    b,
                    ldb,
                    panel,
                    c,
                    ldc: ldq,
                    resume: block > 0,
                };
                rows::<I, f32>(tile.len(), panels, product);
                for (i, &count) in counts.iter().enumerate() {
                    if count > shared {
                        let rest = Tile {
                            k: count - shared,
                            a: scores.add(i * KEYS + shared).cast_const(),
                            b: b.add(shared * ldb),
                            c: c.add(i * ldq),
                            resume: true,
                            ..product
                        };
                        rows::<I, f32>(1, panels, rest);
                    }
                }
            }
        }
        for (r, row) in state[..n].iter().enumerate() {
            let (t, h) = set.at(r);
            let to = args.out.add(t * args.out_stride + h * dim);
            let sum = I::V::load(row.sums.as_ptr()).sum();
            if sum != 0.0 {
                rescale::<I::V>(out.add(r * ldq), panels, 1.0 / sum);
                std::ptr::copy_nonoverlapping(out.add(r * ldq), to, dim);
            } else {
                std::ptr::write_bytes(to, 0, dim);
            }
        }
    }
}

/// Turns a row's first `n` scores into `2^(score - peak)`, and returns what earlier sums must be multiplied by.
///
/// # Safety
/// `scores` holds [`KEYS`] elements; features as [`Lanes`].
#[inline(always)]
unsafe fn softmax<V: Lanes>(softcap: f32, scores: *mut f32, n: usize, row: &mut Row) -> f32 {
    let vectors = n.div_ceil(PANEL);
    // SAFETY: `vectors * PANEL <= KEYS`.
    unsafe {
        if softcap > 0.0 {
            let cap = V::splat(softcap * LOG2_E);
            for v in 0..vectors {
                let at = scores.add(v * PANEL);
                tanh(V::load(at)).mul(cap).store(at);
            }
        }
        for j in n..vectors * PANEL {
            *scores.add(j) = f32::NEG_INFINITY;
        }
        let mut peak = V::load(scores);
        for v in 1..vectors {
            peak = peak.max(V::load(scores.add(v * PANEL)));
        }
        let old = row.peak;
        row.peak = old.max(peak.maximum());
        let peak = V::splat(row.peak);
        let mut sums = V::splat(0.0);
        for v in 0..vectors {
            let at = scores.add(v * PANEL);
            let p = exp2(V::load(at).sub(peak));
            p.store(at);
            sums = sums.add(p);
        }
        // The maximum of equal lanes is any of them.
        let shrink = if old == row.peak {
            1.0
        } else {
            exp2(V::splat(old).sub(peak)).maximum()
        };
        let before = V::load(row.sums.as_ptr());
        before
            .fma(V::splat(shrink), sums)
            .store(row.sums.as_mut_ptr());
        shrink
    }
}

/// Multiplies `panels` times [`PANEL`] elements.
///
/// # Safety
/// `x` is valid for that many; features as [`Lanes`].
#[inline(always)]
unsafe fn rescale<V: Lanes>(x: *mut f32, panels: usize, factor: f32) {
    for p in 0..panels {
        // SAFETY: the caller's.
        unsafe {
            V::load(x.add(p * PANEL))
                .mul(V::splat(factor))
                .store(x.add(p * PANEL))
        }
    }
}

/// `width` key rows as panels `[dim][PANEL]` of columns, the last padded with zeros.
///
/// # Safety
/// `from` is valid for the rows, `to` for `ceil(width / PANEL)` panels; features as [`Lanes`].
#[inline(always)]
unsafe fn pack_keys<V: Lanes>(
    from: *const f32,
    stride: usize,
    width: usize,
    dim: usize,
    to: *mut f32,
) {
    // SAFETY: all indices below are inside the extents.
    unsafe {
        for j in (0..width.next_multiple_of(PANEL)).step_by(8) {
            let column = to.add(j / PANEL * dim * PANEL + j % PANEL);
            let row = from.wrapping_add(j * stride);
            let transposed = if j + 8 <= width { dim / 8 * 8 } else { 0 };
            for d in (0..transposed).step_by(8) {
                V::transpose8(row.add(d), stride, column.add(d * PANEL));
            }
            for i in 0..8 {
                for d in transposed..dim {
                    *column.add(d * PANEL + i) = if j + i < width {
                        *row.add(i * stride + d)
                    } else {
                        0.0
                    };
                }
            }
        }
    }
}

/// `width` value rows as panels `[KEYS][PANEL]`, the last padded with zeros.
///
/// # Safety
/// `from` is valid for the rows, `to` for `ceil(dim / PANEL)` panels.
#[inline(always)]
unsafe fn pack_rows(from: *const f32, stride: usize, width: usize, dim: usize, to: *mut f32) {
    // SAFETY: all indices below are inside the extents.
    unsafe {
        for d in (0..dim).step_by(PANEL) {
            let n = PANEL.min(dim - d);
            for j in 0..width {
                let line = to.add((d / PANEL * KEYS + j) * PANEL);
                if n == PANEL {
                    line.cast::<[f32; PANEL]>().write(
                        from.add(j * stride + d)
                            .cast::<[f32; PANEL]>()
                            .read_unaligned(),
                    );
                } else {
                    std::ptr::copy_nonoverlapping(from.add(j * stride + d), line, n);
                    std::ptr::write_bytes(line.add(n), 0, PANEL - n);
                }
            }
        }
    }
}
