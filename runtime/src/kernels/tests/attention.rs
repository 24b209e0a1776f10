//! Attention of every table against its definition in f64, and against the portable one bit for bit.

use super::{GUARD, random};
use crate::kernels::tables;
use half::{bf16, f16};
use ir::DType;
use ir::abi::{AttentionArgs, AttentionFn, BLOCK, KernelTable, Layout, PANEL};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// An attention problem: the intervals of its rows, and shape.
#[derive(Clone, Debug)]
struct Attention {
    intervals: Vec<(i32, i32)>,
    group: usize,
    head_dim: usize,
    scale: f32,
    softcap: f32,
    /// Magnitude of queries.
    size: f32,
    /// Of keys and values.
    dtype: DType,
}

struct Operands {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    q_stride: usize,
    kv_stride: usize,
    /// Keys and values as a cache keeps them: of two heads, the second of which is used.
    blocks: [Vec<f32>; 2],
}

impl Attention {
    fn operands(&self) -> Operands {
        let keys = self.intervals.iter().map(|i| i.1).max().unwrap_or(0).max(1) as usize;
        let (q_stride, kv_stride) = (self.group * self.head_dim + 3, self.head_dim + 5);
        let mut rng = ChaCha8Rng::seed_from_u64(self.head_dim as u64);
        let mut q = random(&mut rng, self.intervals.len() * q_stride);
        q.iter_mut().for_each(|x| *x *= self.size);
        // Exactly as long as the last key needs: reading past it is an error that a sanitizer can see.
        let len = (keys - 1) * kv_stride + self.head_dim;
        let mut rounded = || {
            let exact = random(&mut rng, len).into_iter();
            if self.dtype == DType::I8 {
                return self.of_codes(exact.collect(), kv_stride);
            }
            let round = |x| self.dtype.round(f64::from(x)) as f32;
            exact.map(round).collect::<Vec<f32>>()
        };
        let mut x = Operands {
            q,
            k: rounded(),
            v: rounded(),
            q_stride,
            kv_stride,
            blocks: [vec![], vec![]],
        };
        self.fill_blocks(&mut x, keys);
        x
    }

    /// Rows rounded to what codes and a scale can say.
    fn of_codes(&self, mut rows: Vec<f32>, stride: usize) -> Vec<f32> {
        for row in rows.chunks_mut(stride) {
            let row = &mut row[..self.head_dim];
            let peak = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for x in row {
                *x = peak / 127.0 * (*x * (127.0 / peak)).round_ties_even();
            }
        }
        rows
    }

    /// Puts keys and values in blocks too; what no row holds is not even a number.
    fn fill_blocks(&self, x: &mut Operands, keys: usize) {
        let layouts = [Layout::Keys, Layout::Values];
        for (layout, (rows, blocks)) in layouts
            .into_iter()
            .zip([&x.k, &x.v].into_iter().zip(&mut x.blocks))
        {
            *blocks = vec![f32::NAN; layout.rows(keys) * 2 * self.head_dim];
            for (row, d) in (0..keys).flat_map(|r| (0..self.head_dim).map(move |d| (r, d))) {
                blocks[layout.index([2, self.head_dim], [row, 1, d])] = rows[row * x.kv_stride + d];
            }
        }
    }

    /// Runs rows `rows` in one call; the output `[rows][group * head_dim]`.
    fn run(
        &self,
        table: &KernelTable,
        x: &Operands,
        rows: std::ops::Range<usize>,
        in_blocks: bool,
    ) -> Vec<f32> {
        match self.dtype {
            DType::F16 => self.stored(table.attention_f16, x, rows, in_blocks, f16::from_f32),
            DType::BF16 => self.stored(table.attention_bf16, x, rows, in_blocks, bf16::from_f32),
            DType::I8 => {
                let [k, v] = self.codes(table, x);
                let head = BLOCK * Layout::KeyCodes.width(self.head_dim);
                let of_second = [&k[head..], &v[head..]].map(|x| x.as_ptr());
                self.call(table.attention_q8, x, rows, of_second, 2 * head)
            }
            _ => self.stored(table.attention_f32, x, rows, in_blocks, |x| x),
        }
    }

    /// Keys and values as a cache keeps them as integers: of two heads, the second of which is used. What no row holds
    /// has scales that are not even numbers.
    fn codes(&self, table: &KernelTable, x: &Operands) -> [Vec<u8>; 2] {
        let layouts = [
            (Layout::KeyCodes, &x.k, PANEL),
            (Layout::ValueCodes, &x.v, 1),
        ];
        layouts.map(|(layout, rows, step)| {
            let heads = [2, self.head_dim];
            let keys = (rows.len() + x.kv_stride - self.head_dim) / x.kv_stride;
            let mut held = vec![0xff; layout.rows(keys) * 2 * layout.width(self.head_dim)];
            for row in 0..keys {
                let [code, scale] = [
                    layout.index(heads, [row, 1, 0]),
                    layout.scale(heads, [row, 1]),
                ];
                let to = held.as_mut_ptr();
                // SAFETY: a row of a head, and its place.
                unsafe {
                    let from = rows[row * x.kv_stride..].as_ptr();
                    (table.quantize_head)(
                        self.head_dim,
                        from,
                        to.add(code),
                        step,
                        to.add(scale).cast(),
                    );
                }
            }
            held
        })
    }

    /// The same, with keys and values stored so.
    fn stored<W>(
        &self,
        attention: AttentionFn,
        x: &Operands,
        rows: std::ops::Range<usize>,
        in_blocks: bool,
        store: impl Fn(f32) -> W,
    ) -> Vec<f32> {
        let head = BLOCK * self.head_dim;
        let [k, v] = match in_blocks {
            true => [&x.blocks[0][head..], &x.blocks[1][head..]],
            false => [&x.k[..], &x.v[..]],
        };
        let [k, v] = [k, v].map(|x| x.iter().map(|x| store(*x)).collect::<Vec<W>>());
        let at = [&k, &v].map(|x| x.as_ptr().cast());
        self.call(attention, x, rows, at, if in_blocks { 2 * head } else { 0 })
    }

    /// The same, with keys and values at `k` and `v`.
    fn call(
        &self,
        attention: AttentionFn,
        x: &Operands,
        rows: std::ops::Range<usize>,
        [k, v]: [*const u8; 2],
        block_stride: usize,
    ) -> Vec<f32> {
        let width = self.group * self.head_dim;
        let out_stride = width + 1;
        let (lo, hi): (Vec<i32>, Vec<i32>) = self.intervals[rows.clone()].iter().copied().unzip();
        let mut out = vec![f32::NAN; rows.len() * out_stride];
        out.iter_mut()
            .skip(width)
            .step_by(out_stride)
            .for_each(|x| *x = GUARD);
        let args = AttentionArgs {
            q: x.q[rows.start * x.q_stride..].as_ptr(),
            q_stride: x.q_stride,
            k,
            v,
            kv_stride: x.kv_stride,
            block_stride,
            out: out.as_mut_ptr(),
            out_stride,
            lo: lo.as_ptr(),
            hi: hi.as_ptr(),
            tokens: rows.len(),
            group: self.group,
            head_dim: self.head_dim,
            scale: self.scale,
            softcap: self.softcap,
        };
        // SAFETY: all operands have the extents stated.
        unsafe { attention(&args) };
        assert!(
            out.iter()
                .skip(width)
                .step_by(out_stride)
                .all(|&x| x == GUARD),
            "wrote past a row"
        );
        out.chunks(out_stride)
            .flat_map(|row| &row[..width])
            .copied()
            .collect()
    }

    /// The definition, in f64.
    fn reference(&self, x: &Operands) -> Vec<f64> {
        let (d, mut out) = (self.head_dim, Vec::new());
        for (t, &(lo, hi)) in self.intervals.iter().enumerate() {
            for h in 0..self.group {
                let q = &x.q[t * x.q_stride + h * d..][..d];
                let keys = lo as usize..hi.max(lo) as usize;
                let dot = |k: &[f32]| {
                    q.iter()
                        .zip(k)
                        .map(|(&a, &b)| f64::from(a) * f64::from(b))
                        .sum::<f64>()
                };
                let scores: Vec<f64> = keys
                    .clone()
                    .map(|j| dot(&x.k[j * x.kv_stride..]) * f64::from(self.scale))
                    .map(|s| match f64::from(self.softcap) {
                        cap if cap > 0.0 => cap * (s / cap).tanh(),
                        _ => s,
                    })
                    .collect();
                let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - peak).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..d {
                    let sum: f64 = keys
                        .clone()
                        .zip(&weights)
                        .map(|(j, w)| w * f64::from(x.v[j * x.kv_stride + i]))
                        .sum();
                    out.push(if weights.is_empty() { 0.0 } else { sum / total });
                }
            }
        }
        out
    }

    /// All tables against f64 and the portable one; all ways of splitting the rows into calls give equal bits.
    fn check(&self, tolerance: f64) {
        if self.dtype != DType::I8 {
            self.check_layout(tolerance, false);
        }
        self.check_layout(tolerance, true);
    }

    fn check_layout(&self, tolerance: f64, in_blocks: bool) {
        let x = self.operands();
        let (all, width) = (0..self.intervals.len(), self.group * self.head_dim);
        let exact = self.reference(&x);
        let tables = tables();
        let twin = self.run(
            &tables.last().expect("portable is always listed").1,
            &x,
            all.clone(),
            in_blocks,
        );
        for (name, table) in &tables {
            let got = self.run(table, &x, all.clone(), in_blocks);
            for (at, (&got, &exact)) in got.iter().zip(&exact).enumerate() {
                let error = (f64::from(got) - exact).abs();
                assert!(
                    error <= tolerance,
                    "{name} {self:?} blocks {in_blocks}: row {} is {got}, not {exact}",
                    at / width
                );
            }
            assert!(
                got.iter()
                    .zip(&twin)
                    .all(|(a, b)| a.to_bits() == b.to_bits()),
                "{name} {self:?}: not portable's bits"
            );
            for step in [1, 2, 3, 7, 20] {
                let parts: Vec<f32> = all
                    .clone()
                    .step_by(step)
                    .flat_map(|t| self.run(table, &x, t..all.end.min(t + step), in_blocks))
                    .collect();
                assert!(
                    got.iter()
                        .zip(&parts)
                        .all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{name} {self:?}: calls of {step} rows give other bits"
                );
            }
        }
    }
}

fn causal(from: i32, tokens: i32) -> Vec<(i32, i32)> {
    (0..tokens).map(|t| (0, from + t + 1)).collect()
}

fn plain(intervals: Vec<(i32, i32)>, group: usize, head_dim: usize) -> Attention {
    Attention {
        intervals,
        group,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        softcap: 0.0,
        size: 1.0,
        dtype: DType::F32,
    }
}

#[test]
fn attention_of_any_head() {
    for head_dim in [1, 7, 16, 20, 32, 48, 64, 80, 128, 200, 256] {
        for group in [1, 3, 4] {
            plain(causal(60, 21), group, head_dim).check(2e-6);
        }
    }
}

#[test]
fn attention_of_any_intervals() {
    let window = (0..150).map(|t: i32| ((t - 30).max(0), t + 1)).collect();
    let two_sequences = (0..60)
        .map(|t| if t < 25 { (0, 25) } else { (25, 60) })
        .collect();
    let ragged = vec![
        (0, 200),
        (0, 0),
        (5, 3),
        (199, 200),
        (0, 64),
        (0, 65),
        (64, 128),
        (0, 1),
        (10, 190),
    ];
    for intervals in [
        window,
        two_sequences,
        ragged,
        causal(0, 130),
        vec![(0, 128); 128],
        vec![(3, 700)],
    ] {
        plain(intervals, 2, 32).check(2e-6);
    }
}

#[test]
fn attention_over_narrow_keys_is_that_over_what_they_widen_to() {
    for dtype in [DType::F16, DType::BF16] {
        for head_dim in [1, 7, 16, 20, 64, 128] {
            for intervals in [causal(60, 21), vec![(3, 700)]] {
                let narrow = Attention {
                    dtype,
                    ..plain(intervals.clone(), 4, head_dim)
                };
                narrow.check(2e-6);
                let wide = plain(intervals, 4, head_dim);
                let x = narrow.operands();
                for (name, table) in &tables() {
                    for in_blocks in [false, true] {
                        let all = 0..narrow.intervals.len();
                        let [a, b] = [&narrow, &wide]
                            .map(|a| a.run(table, &x, all.clone(), in_blocks))
                            .map(|out| out.into_iter().map(f32::to_bits).collect::<Vec<u32>>());
                        assert_eq!(a, b, "{name} {narrow:?} blocks {in_blocks}");
                    }
                }
            }
        }
    }
}

#[test]
fn attention_over_codes_is_that_over_what_they_stand_for() {
    for head_dim in [1, 7, 16, 20, 64, 96, 128] {
        for (intervals, softcap) in [
            (causal(60, 21), 0.0),
            (causal(60, 21), 5.0),
            (vec![(3, 700)], 0.0),
        ] {
            let coded = Attention {
                dtype: DType::I8,
                softcap,
                ..plain(intervals, 4, head_dim)
            };
            coded.check(3e-6);
        }
    }
}

#[test]
fn attention_of_large_groups() {
    plain(causal(100, 5), 71, 16).check(2e-6);
}

#[test]
fn attention_of_large_scores() {
    // Scores of 1e5: a softmax that is nearly a maximum, where an unshifted exponential overflows.
    Attention {
        size: 1e5,
        ..plain(causal(90, 20), 2, 32)
    }
    .check(1e-2);
    Attention {
        size: 30.0,
        ..plain(causal(90, 20), 2, 32)
    }
    .check(3e-5);
}

#[test]
fn attention_with_capped_scores() {
    for softcap in [0.5, 5.0, 50.0] {
        Attention {
            softcap,
            size: 20.0,
            ..plain(causal(90, 20), 2, 32)
        }
        .check(2e-5);
    }
}

#[test]
fn a_row_is_untouched_by_keys_outside_its_interval() {
    let all = plain(causal(0, 100), 1, 32);
    let mut x = all.operands();
    let (name, table) = tables().swap_remove(0);
    let clean = [false, true].map(|in_blocks| all.run(&table, &x, 0..50, in_blocks));
    // Keys and values of later rows are not even numbers.
    x.k[50 * x.kv_stride..].fill(f32::NAN);
    x.v[50 * x.kv_stride..].fill(f32::NAN);
    all.fill_blocks(&mut x, 100);
    for (in_blocks, clean) in [false, true].into_iter().zip(clean) {
        let got = all.run(&table, &x, 0..100, in_blocks);
        assert_eq!(got[..clean.len()], clean, "{name}");
        assert!(
            got[clean.len()..].iter().all(|x| x.is_nan()),
            "the poison must reach the rows that attend to it"
        );
    }
}
