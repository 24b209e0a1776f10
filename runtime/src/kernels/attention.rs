//! Attention with an online softmax over blocks of keys (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022).
//!
//! Each row goes through the same blocks in the same order whatever else is in the call, every score and every output
//! element is one chain of fused multiply-adds, and the reductions of a block are fixed trees: a row's bits depend on
//! that row alone. Keys and values that lie in blocks are read in place; others are packed, and shared by rows that
//! start at the same key. Narrow ones are widened where they are multiplied; scales that codes have multiply scores and
//! weights, a row at a time. Knows no instruction set.

use super::Isa;
use super::functions::{exp2, tanh};
use super::gemm::{Tile, part, rows};
use super::lanes::Lanes;
use super::packing::{pack_keys, pack_rows};
use super::scratch::scratch;
use super::weight::Weight;
use ir::abi::{AttentionArgs, BLOCK, PANEL};
use std::f32::consts::LOG2_E;

/// Keys of a block. Part of the definition of the result.
pub(super) const KEYS: usize = BLOCK;
/// Most rows (query positions times heads) that share a block.
const ROWS: usize = 64;

/// [`ir::abi::AttentionFn`].
///
/// # Safety
/// As [`AttentionArgs`] states, and the CPU has the features of `I`.
pub(super) unsafe extern "C" fn attention<I: Isa, W: Weight>(args: *const AttentionArgs) {
    // SAFETY: the caller's.
    unsafe { I::attend::<W>(&*args) }
}

/// What a row carries from block to block. Scores are in units of `ln 2`, so that weights are powers of two.
#[derive(Clone, Copy)]
struct Row {
    /// Largest score so far.
    peak: f32,
    /// Sums of `2^(score - peak)` so far, over every [`PANEL`]-th key.
    sums: [f32; PANEL],
}

/// Query positions `tokens` and heads `heads` of the group, whose blocks begin at key `first`.
struct Rows {
    tokens: std::ops::Range<usize>,
    heads: std::ops::Range<usize>,
    first: usize,
    /// One past the last key of any.
    end: usize,
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

/// Keys that token `t` attends to.
///
/// # Safety
/// `t` is less than `args.tokens`.
unsafe fn interval(args: &AttentionArgs, t: usize) -> (usize, usize) {
    // SAFETY: `lo` and `hi` have `tokens` elements.
    unsafe {
        (
            (*args.lo.add(t)).max(0) as usize,
            (*args.hi.add(t)).max(0) as usize,
        )
    }
}

/// [`AttentionArgs`]' meaning, of keys and values of type `W`.
///
/// # Safety
/// As [`attention`].
#[inline(always)]
pub(super) unsafe fn attend<I: Isa, W: Weight>(args: &AttentionArgs) {
    let in_blocks = args.block_stride > 0;
    let per_call = args.group.min(ROWS);
    for head in (0..args.group).step_by(per_call.max(1)) {
        let heads = head..args.group.min(head + per_call);
        let mut t = 0;
        while t < args.tokens {
            let most = args.tokens.min(t + ROWS / heads.len());
            // SAFETY: all tokens asked for are less than `tokens`.
            unsafe {
                let (lo, mut end) = interval(args, t);
                let mut set = Rows {
                    tokens: t..t + 1,
                    heads: heads.clone(),
                    first: lo,
                    end,
                };
                while set.tokens.end < most {
                    let (next, hi) = interval(args, set.tokens.end);
                    // In blocks rows may begin anywhere; those of other sequences have other blocks.
                    let together = if in_blocks {
                        (set.first..end).contains(&next)
                    } else {
                        next == lo
                    };
                    if !together {
                        break;
                    }
                    end = end.max(hi);
                    set.tokens.end += 1;
                }
                set.end = end;
                if in_blocks {
                    set.first = set.first / KEYS * KEYS;
                }
                t = set.tokens.end;
                attend_rows::<I, W>(args, &set);
            }
        }
    }
}

/// One set of rows against all its keys.
///
/// # Safety
/// As [`attention`].
#[inline(always)]
unsafe fn attend_rows<I: Isa, W: Weight>(args: &AttentionArgs, set: &Rows) {
    let (n, dim) = (set.len(), args.head_dim);
    let panels = dim.div_ceil(PANEL);
    let wide = panels * PANEL;
    // One more line than needed, so that rows of a power-of-two width do not share a cache set.
    let ldq = wide + PANEL;
    let tiles = n.div_ceil(I::ROWS);
    let in_blocks = args.block_stride > 0;
    // Packed values pay when several tiles read strided ones, and give odd widths their padding.
    let pack_values = wide != dim || (tiles > 1 && !in_blocks);

    let sizes = [
        n * ldq,
        n * ldq,
        I::ROWS * KEYS,
        if in_blocks { 0 } else { KEYS * dim },
        if pack_values { KEYS * wide } else { 0 },
    ];
    let mut next = scratch(sizes.iter().map(|s| s.next_multiple_of(PANEL)).sum());
    let [q, out, scores, packed_keys, packed_values] = sizes.map(|size| {
        let this = next;
        next = next.wrapping_add(size.next_multiple_of(PANEL));
        this
    });
    // Room for f32 is room for anything narrower.
    let (packed_keys, packed_values) = (packed_keys.cast::<W>(), packed_values.cast::<W>());
    let (all_keys, all_values) = (args.k.cast::<W>(), args.v.cast::<W>());
    let mut state = [Row {
        peak: f32::NEG_INFINITY,
        sums: [0.0; PANEL],
    }; ROWS];
    // What each row of a tile attends to, within the block.
    let mut spans = [(0, 0); ROWS];

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
        std::ptr::write_bytes(out, 0, n * ldq);
        for start in (set.first..set.end).step_by(KEYS) {
            let width = KEYS.min(set.end - start);
            let (keys, values, value_stride) = if in_blocks {
                let block = start / KEYS * args.block_stride;
                (all_keys.add(block), all_values.add(block), dim)
            } else {
                let row = start * args.kv_stride;
                pack_keys::<I::V, W>(all_keys.add(row), args.kv_stride, width, dim, packed_keys);
                (
                    packed_keys.cast_const(),
                    all_values.add(row),
                    args.kv_stride,
                )
            };
            // Behind the codes of a head of a block.
            let scale_of = |codes: *const W| codes.add(KEYS * dim).cast::<f32>();
            let scales = W::SCALED.then(|| [scale_of(keys), scale_of(values)]);
            let (values, ldv, value_panel) = if pack_values {
                pack_rows(values, value_stride, width, dim, packed_values);
                (packed_values.cast_const(), PANEL, KEYS * PANEL)
            } else {
                (values, value_stride, PANEL)
            };
            for tile in (0..tiles).map(|i| part(n, tiles, i)) {
                let spans = &mut spans[..tile.len()];
                for (span, r) in spans.iter_mut().zip(tile.clone()) {
                    let (lo, hi) = interval(args, set.at(r).0);
                    let to = hi.saturating_sub(start).min(KEYS);
                    *span = (lo.saturating_sub(start).min(to), to);
                }
                let active = |span: &(usize, usize)| span.0 < span.1;
                let Some(most) = spans.iter().filter(|s| active(s)).map(|s| s.1).max() else {
                    continue;
                };
                rows::<I, W>(
                    tile.len(),
                    most.div_ceil(PANEL),
                    Tile {
                        k: dim,
                        a: q.add(tile.start * ldq).cast_const(),
                        lda: ldq,
                        b: keys,
                        ldb: PANEL,
                        panel: dim * PANEL,
                        c: scores,
                        ldc: KEYS,
                        resume: false,
                    },
                );
                for (i, r) in tile.clone().enumerate().filter(|(i, _)| active(&spans[*i])) {
                    let of_row = scores.add(i * KEYS);
                    let shrink =
                        softmax::<I::V>(args.softcap, of_row, scales, spans[i], &mut state[r]);
                    if shrink != 1.0 {
                        rescale::<I::V>(out.add(r * ldq), panels, shrink);
                    }
                }
                // Keys that all rows of the tile attend to, and each row's own before and after: no row ever meets,
                // not even with weight zero, a key outside its interval. Each row takes its keys in order.
                let first = spans.iter().map(|s| s.0).max().unwrap_or(0);
                let last = spans.iter().map(|s| s.1).min().unwrap_or(0).max(first);
                let add = |i: usize, count: usize, (from, to): (usize, usize)| {
                    let product = Tile {
                        k: to.saturating_sub(from),
                        a: scores.add(i * KEYS + from).cast_const(),
                        lda: KEYS,
                        b: values.add(from * ldv),
                        ldb: ldv,
                        panel: value_panel,
                        c: out.add((tile.start + i) * ldq),
                        ldc: ldq,
                        resume: true,
                    };
                    if product.k > 0 {
                        rows::<I, W>(count, panels, product);
                    }
                };
                for (i, (from, to)) in spans.iter().copied().enumerate() {
                    add(i, 1, (from, to.min(first)));
                }
                add(0, tile.len(), (first, last));
                for (i, (from, to)) in spans.iter().copied().enumerate() {
                    add(i, 1, (from.max(last), to));
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

/// Turns a row's scores in `from..to`, at least one, into `2^(score - peak)`, and returns what earlier sums must be
/// multiplied by. Where keys and values have `scales`, those multiply the scores and what they are turned into.
///
/// # Safety
/// `scores` holds [`KEYS`] elements, and so do all `scales`; features as [`Lanes`].
#[inline(always)]
unsafe fn softmax<V: Lanes>(
    softcap: f32,
    scores: *mut f32,
    scales: Option<[*const f32; 2]>,
    (from, to): (usize, usize),
    row: &mut Row,
) -> f32 {
    let vectors = from / PANEL..to.div_ceil(PANEL);
    // SAFETY: `to <= KEYS`, which is a multiple of PANEL.
    unsafe {
        if let Some([keys, _]) = scales {
            for v in vectors.clone() {
                let at = scores.add(v * PANEL);
                V::load(at).mul(V::load(keys.add(v * PANEL))).store(at);
            }
        }
        if softcap > 0.0 {
            let cap = V::splat(softcap * LOG2_E);
            for v in vectors.clone() {
                let at = scores.add(v * PANEL);
                tanh(V::load(at)).mul(cap).store(at);
            }
        }
        for j in (vectors.start * PANEL..from).chain(to..vectors.end * PANEL) {
            *scores.add(j) = f32::NEG_INFINITY;
        }
        let mut peak = V::splat(f32::NEG_INFINITY);
        for v in vectors.clone() {
            peak = V::load(scores.add(v * PANEL)).max(peak);
        }
        let old = row.peak;
        row.peak = old.max(peak.maximum());
        let peak = V::splat(row.peak);
        let mut sums = V::splat(0.0);
        for v in vectors {
            let at = scores.add(v * PANEL);
            let p = exp2(V::load(at).sub(peak));
            sums = sums.add(p);
            match scales {
                Some([_, values]) => p.mul(V::load(values.add(v * PANEL))).store(at),
                None => p.store(at),
            }
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
