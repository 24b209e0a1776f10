//! Every table against f64 references, and against each other bit for bit.

mod grouped;

use super::tables;
use half::{bf16, f16};
use ir::DType;
use ir::abi::{AttentionArgs, AttentionFn, BLOCK, GemmFn, KernelTable, Layout, PANEL};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Elements at the start of a 64-byte line, as packed panels are.
struct Aligned<T>(Vec<T>, usize);

impl<T: Copy + Default> Aligned<T> {
    fn new(data: &[T]) -> Self {
        let line = 64 / size_of::<T>();
        let mut v = vec![T::default(); data.len() + line];
        let skip = v.as_ptr().align_offset(64);
        v[skip..skip + data.len()].copy_from_slice(data);
        Aligned(v, skip)
    }

    fn bytes(&self) -> *const u8 {
        self.0[self.1..].as_ptr().cast()
    }
}

/// A number with a guard value around it that kernels must not touch.
const GUARD: f32 = 12345.0;

/// One product: `m, k, panels`, and how much longer the rows of `a` and `c` are than what is used.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    k: usize,
    panels: usize,
    slack: usize,
}

/// Runs `gemm` on a poisoned output inside guards; checks the guards and returns the output alone.
fn product(gemm: GemmFn, case: Case, a: &[f32], b: *const u8) -> Vec<f32> {
    let Case {
        m,
        k,
        panels,
        slack,
    } = case;
    let (n, lda, ldc) = (panels * PANEL, k + slack, panels * PANEL + slack);
    let mut c = vec![GUARD; (m + 2) * ldc + 1];
    // Unaligned on purpose.
    let at = ldc + 1;
    for i in 0..m {
        c[at + i * ldc..][..n].fill(f32::NAN);
    }
    // SAFETY: `a` holds m rows of lda, `c` m rows of ldc from `at`, `b` the panels.
    unsafe { gemm(m, k, a.as_ptr(), lda, b, panels, c[at..].as_mut_ptr(), ldc) };
    let mut out = Vec::new();
    for (i, &x) in c.iter().enumerate() {
        let inside = i >= at && (i - at) / ldc < m && (i - at) % ldc < n;
        if inside {
            out.push(x);
        } else {
            assert_eq!(x, GUARD, "{case:?}: wrote outside at {i}");
        }
    }
    out
}

/// Checks every table's `entry` on `case` against f64 and against the last, portable, table.
/// Where element `[row, column]` of a weight lies in panels of `k` rows, `strip` side by side.
fn index(strip: usize, [k, panels]: [usize; 2], [row, column]: [usize; 2]) -> usize {
    let (panel, within) = (column / PANEL, column % PANEL);
    let first = panel / strip * strip;
    let wide = strip.min(panels - first);
    (first * k + row * wide + panel - first) * PANEL + within
}

fn check_gemm<T: Copy + Default>(
    case: Case,
    entry: impl Fn(&KernelTable) -> GemmFn,
    narrow: impl Fn(f32) -> T,
    wide: impl Fn(T) -> f32,
) {
    let Case {
        m,
        k,
        panels,
        slack,
    } = case;
    let mut rng = ChaCha8Rng::seed_from_u64((m * 1_000_003 + k * 101 + panels) as u64);
    let lda = k + slack;
    let a = random(&mut rng, m * lda);
    let b: Vec<T> = random(&mut rng, panels * k * PANEL)
        .into_iter()
        .map(narrow)
        .collect();
    let packed = Aligned::new(&b);
    let strip = if size_of::<T>() == 4 { 1 } else { 4 };
    let tables = tables();
    let (_, portable) = tables.last().expect("portable is always listed");
    let twin = product(entry(portable), case, &a, packed.bytes());
    for (name, table) in &tables {
        let got = product(entry(table), case, &a, packed.bytes());
        for (at, (&got, &twin)) in got.iter().zip(&twin).enumerate() {
            let (i, j) = (at / (panels * PANEL), at % (panels * PANEL));
            assert_eq!(
                got.to_bits(),
                twin.to_bits(),
                "{name} {case:?} at {i},{j}: {got} against portable {twin}"
            );
            let weight = |l: usize| f64::from(wide(b[index(strip, [k, panels], [l, j])]));
            let exact: f64 = (0..k).map(|l| f64::from(a[i * lda + l]) * weight(l)).sum();
            let size: f64 = (0..k)
                .map(|l| (f64::from(a[i * lda + l]) * weight(l)).abs())
                .sum();
            assert!(
                (f64::from(got) - exact).abs() <= 1e-6 * size,
                "{name} {case:?} at {i},{j}: {got} against {exact}"
            );
        }
    }
}

fn check_all_weights(case: Case) {
    check_gemm(case, |t| t.gemm_f32, |x| x, |x| x);
    check_gemm(case, |t| t.gemm_bf16, bf16::from_f32, bf16::to_f32);
    check_gemm(case, |t| t.gemm_f16, f16::from_f32, f16::to_f32);
}

#[test]
fn gemm_of_small_shapes() {
    for m in 1..=17 {
        for k in [0, 1, 2, 3, 5, 16, 63, 64, 100] {
            for panels in 1..=5 {
                check_all_weights(Case {
                    m,
                    k,
                    panels,
                    slack: (m + panels) % 4,
                });
            }
        }
    }
}

#[test]
fn gemm_of_shapes_that_are_cut_into_blocks() {
    for (m, k, panels) in [
        (1, 1000, 5),
        (7, 384, 3),
        (15, 1000, 3),
        (29, 513, 2),
        (130, 256, 2),
        (169, 257, 3),
        (400, 70, 1),
    ] {
        check_all_weights(Case {
            m,
            k,
            panels,
            slack: 3,
        });
    }
    // Rows a multiple of 4096 bytes apart.
    check_all_weights(Case {
        m: 12,
        k: 1024,
        panels: 4,
        slack: 0,
    });
    check_all_weights(Case {
        m: 33,
        k: 1024,
        panels: 4,
        slack: 0,
    });
}

#[test]
fn a_row_has_the_same_bits_in_any_product() {
    let (m, k, panels) = (40, 600, 3);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (a, b) = (
        random(&mut rng, m * k),
        random(&mut rng, panels * k * PANEL),
    );
    let b = Aligned::new(&b);
    for (name, table) in tables() {
        let all = product(
            table.gemm_f32,
            Case {
                m,
                k,
                panels,
                slack: 0,
            },
            &a,
            b.bytes(),
        );
        for (i, row) in all.chunks(panels * PANEL).enumerate() {
            let alone = product(
                table.gemm_f32,
                Case {
                    m: 1,
                    k,
                    panels,
                    slack: 0,
                },
                &a[i * k..],
                b.bytes(),
            );
            assert_eq!(row, alone, "{name} row {i}");
        }
    }
}

#[test]
fn narrow_weights_widen_exactly() {
    // Every finite bf16 and f16 times one.
    fn check<T: Copy + Default>(
        entry: impl Fn(&KernelTable) -> GemmFn,
        of: impl Fn(u16) -> T,
        wide: impl Fn(T) -> f32,
    ) {
        let all: Vec<T> = (0..=u16::MAX)
            .map(of)
            .map(|x| if wide(x).is_finite() { x } else { T::default() })
            .collect();
        let b = Aligned::new(&all);
        let case = Case {
            m: 1,
            k: 1,
            panels: all.len() / PANEL,
            slack: 0,
        };
        for (name, table) in tables() {
            let got = product(entry(&table), case, &[1.0], b.bytes());
            for (got, &x) in got.iter().zip(&all) {
                assert_eq!(*got, wide(x), "{name}");
            }
        }
    }
    check(|t| t.gemm_bf16, bf16::from_bits, bf16::to_f32);
    check(|t| t.gemm_f16, f16::from_bits, f16::to_f32);
}

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
            _ => self.stored(table.attention_f32, x, rows, in_blocks, |x| x),
        }
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
            k: k.as_ptr().cast(),
            v: v.as_ptr().cast(),
            kv_stride: x.kv_stride,
            block_stride: if in_blocks { 2 * head } else { 0 },
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
        self.check_layout(tolerance, false);
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

#[test]
fn cosine_and_sine() {
    for (_, table) in tables() {
        for x in [0.0, 0.1, -1.0, 3.0, 1000.5, 131_072.0f32] {
            for (got, exact) in [
                ((table.cos)(x), f64::from(x).cos()),
                ((table.sin)(x), f64::from(x).sin()),
            ] {
                assert!(
                    (f64::from(got) - exact).abs() <= 6e-8,
                    "{x}: {got}, not {exact}"
                );
            }
        }
    }
}

#[test]
fn the_chosen_table_is_the_first() {
    let first = tables()[0].1;
    assert_eq!(super::table().gemm_f32 as usize, first.gemm_f32 as usize);
    assert_eq!(first.version, u64::from(ir::abi::ABI_VERSION));
}
