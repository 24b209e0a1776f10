//! Every table against f64 references, and against each other bit for bit.

mod attention;
mod grouped;

use super::tables;
use half::{bf16, f16};
use ir::{
    DType,
    abi::{Codec, GemmFn, KernelTable, PANEL},
};
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
fn product<X>(gemm: GemmFn, case: Case, a: &[X], b: *const u8) -> Vec<f32> {
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
    unsafe {
        gemm(
            m,
            k,
            a.as_ptr().cast(),
            lda,
            b,
            panels,
            c[at..].as_mut_ptr(),
            ldc,
        )
    };
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

/// Where element `[row, column]` of a weight of `k` rows lies in panels.
fn index(codec: Codec, [k, panels]: [usize; 2], [row, column]: [usize; 2]) -> usize {
    let (panel, within) = (column / PANEL, column % PANEL);
    let (strip, depth) = (codec.strip(), codec.depth());
    let first = panel / strip * strip;
    let wide = strip.min(panels - first);
    let line = first * k.div_ceil(depth) + row / depth * wide + panel - first;
    (line * PANEL + within) * depth + row % depth
}

/// Checks every table's `entry` on `case` against f64 and against the last, portable, table.
fn check_gemm<X: Copy + Into<f32>, T: Copy + Default>(
    case: Case,
    codec: DType,
    entry: impl Fn(&KernelTable) -> GemmFn,
    rows: impl Fn(f32) -> X,
    narrow: impl Fn(f32) -> T,
    wide: impl Fn(T) -> f32,
) {
    let Case {
        m,
        k,
        panels,
        slack,
    } = case;
    let codec = Codec::Plain(codec);
    let mut rng = ChaCha8Rng::seed_from_u64((m * 1_000_003 + k * 101 + panels) as u64);
    let lda = k + slack;
    let a: Vec<X> = random(&mut rng, m * lda).into_iter().map(rows).collect();
    let mut b = vec![T::default(); panels * codec.panel(k) / size_of::<T>()];
    for row in 0..k {
        for column in 0..panels * PANEL {
            let element = narrow(rng.random_range(-1.0..1.0));
            b[index(codec, [k, panels], [row, column])] = element;
        }
    }
    let packed = Aligned::new(&b);
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
            let weight = |l: usize| f64::from(wide(b[index(codec, [k, panels], [l, j])]));
            let products = || (0..k).map(|l| f64::from(a[i * lda + l].into()) * weight(l));
            let exact: f64 = products().sum();
            let size: f64 = products().map(f64::abs).sum();
            assert!(
                (f64::from(got) - exact).abs() <= 1e-6 * size,
                "{name} {case:?} at {i},{j}: {got} against {exact}"
            );
        }
    }
}

fn check_all_weights(case: Case) {
    let (same, to, from) = (|x: f32| x, bf16::from_f32, bf16::to_f32);
    check_gemm(case, DType::F32, |t| t.gemm_f32, same, same, same);
    check_gemm(case, DType::BF16, |t| t.gemm_bf16, same, to, from);
    check_gemm(case, DType::BF16, |t| t.gemm_bf16_rows, to, to, from);
    check_gemm(
        case,
        DType::F16,
        |t| t.gemm_f16,
        same,
        f16::from_f32,
        f16::to_f32,
    );
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
    for (m, panels) in [(8, 4), (8, 6), (12, 4), (33, 4)] {
        check_all_weights(Case {
            m,
            k: 1024,
            panels,
            slack: 0,
        });
        check_all_weights(Case {
            m,
            k: 2048,
            panels,
            slack: 0,
        });
    }
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
        depth: usize,
        entry: impl Fn(&KernelTable) -> GemmFn,
        of: impl Fn(u16) -> T,
        wide: impl Fn(T) -> f32,
    ) {
        let all: Vec<T> = (0..=u16::MAX)
            .map(of)
            .map(|x| if wide(x).is_finite() { x } else { T::default() })
            .collect();
        // Each in a line of its own kind: what follows it is padding.
        let padded = all.iter().flat_map(|x| {
            let padding = std::iter::repeat_n(T::default(), depth - 1);
            std::iter::once(*x).chain(padding)
        });
        let b = Aligned::new(&padded.collect::<Vec<T>>());
        let case = Case {
            m: 1,
            k: 1,
            panels: all.len() / PANEL,
            slack: 0,
        };
        for (name, table) in tables() {
            let got = product(entry(&table), case, &[1.0f32], b.bytes());
            for (got, &x) in got.iter().zip(&all) {
                assert_eq!(*got, wide(x), "{name}");
            }
        }
    }
    check(2, |t| t.gemm_bf16, bf16::from_bits, bf16::to_f32);
    check(1, |t| t.gemm_f16, f16::from_bits, f16::to_f32);
}

#[test]
fn rotations_have_the_same_bits_everywhere() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for (block, n) in [(2, 6), (4, 4), (16, 48), (128, 384), (1024, 1024)] {
        let x = random(&mut rng, n);
        let mut wanted = x.clone();
        let mut apart = 1;
        while apart < block {
            for i in (0..n).filter(|i| i & apart == 0) {
                let (a, b) = (wanted[i], wanted[i + apart]);
                (wanted[i], wanted[i + apart]) = (a + b, a - b);
            }
            apart *= 2;
        }
        let scale = 1.0 / (block as f32).sqrt();
        wanted.iter_mut().for_each(|x| *x *= scale);
        for (name, table) in tables() {
            let mut got = x.clone();
            // SAFETY: `n` elements, blocks of which `block` divides.
            unsafe { (table.hadamard)(n, block, got.as_mut_ptr()) };
            assert_eq!(got, wanted, "{name}: {block} of {n}");
        }
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

/// An intrinsic in a closure is called, with its operands in memory: closures have no CPU features, so that nothing is inlined
/// there. It costs a factor of ten and more, and no other test sees it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn no_intrinsic_is_called() {
    use object::{Object, ObjectSymbol};
    let path = std::env::current_exe().expect("tests know their file");
    let file = std::fs::read(path).expect("and read it");
    let file = object::File::parse(&*file).expect("an executable");
    let names: Vec<&str> = file.symbols().filter_map(|s| s.name().ok()).collect();
    let kernels = names.iter().filter(|n| n.contains("7kernels")).count();
    assert!(kernels > 0, "this executable has no names of functions");
    let called = |n: &&&str| n.contains("core_arch") && n.contains("__mm");
    let called: Vec<_> = names.iter().filter(called).collect();
    assert!(called.is_empty(), "functions of their own: {called:#?}");
}
