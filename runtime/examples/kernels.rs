//! Speed of the kernels and the thread pool on this machine, each instruction set it can run:
//! `cargo run --release -p satura-runtime --example kernels [avx512|avx2|portable] [gemm|gemv|grouped|attention|pool]`.

use ir::{
    DType, Element,
    abi::{AttentionArgs, BLOCK, Codec, GemmFn, GroupedGemmFn, KernelTable, PANEL},
};
use runtime::{kernels, pool::Pool};
use std::time::{Duration, Instant};

/// Seconds of one call: the fastest of many, since a shared machine only ever adds time.
fn fastest(mut f: impl FnMut()) -> f64 {
    f();
    let (start, mut best) = (Instant::now(), f64::MAX);
    while start.elapsed() < Duration::from_millis(200) {
        let once = Instant::now();
        f();
        best = best.min(once.elapsed().as_secs_f64());
    }
    best
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([f32; 16]);

/// Zeroed lines would all map to one page; ones do not.
fn lines(floats: usize) -> Vec<Line> {
    vec![Line([1.0; 16]); floats.div_ceil(16)]
}

/// A pointer that threads may share: each uses its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: the benchmarks below give each task its own output range.
unsafe impl<T> Sync for Shared<T> {}

fn gemm(table: &KernelTable) {
    let shapes = [
        (128, 384, 384),
        (128, 384, 1536),
        (128, 1536, 384),
        (512, 512, 512),
        (512, 1024, 1024),
        (32, 384, 1536),
        (16, 384, 1536),
        (8, 384, 1536),
        (4, 384, 1536),
        (2, 384, 1536),
        (1, 512, 512),
        (8, 1024, 1024),
        (12, 1024, 1024),
        (128, 1024, 1024),
        (128, 768, 768),
        (128, 2048, 512),
        (64, 2048, 64),
        (64, 8192, 64),
        (1, 384, 1536),
    ];
    let once = |m: usize, k: usize, n: usize, per_call: usize, gemm: GemmFn, bytes: usize| {
        let (a, b, mut c) = (lines(m * k), lines(k * n), lines(m * n));
        let (a, b, c) = (
            a.as_ptr().cast::<u8>(),
            b.as_ptr().cast::<u8>(),
            c.as_mut_ptr().cast::<f32>(),
        );
        let seconds = fastest(|| {
            for p in (0..n / PANEL).step_by(per_call) {
                // SAFETY: `a`, `b`, `c` hold m x k, k x n and m x n elements.
                unsafe {
                    gemm(
                        m,
                        k,
                        a,
                        k,
                        b.add(p * k * PANEL * bytes),
                        per_call,
                        c.add(p * PANEL),
                        n,
                    )
                }
            }
        });
        2.0 * (m * k * n) as f64 / seconds * 1e-9
    };
    let peak = once(14, 128, 32, 2, table.gemm_f32, 4).max(once(12, 128, 16, 1, table.gemm_f32, 4));
    println!("  gemm, GFLOP/s; in first-level cache {peak:.0}");
    println!(
        "  {:>5} {:>5} {:>5} {:>8} {:>8} {:>9} {:>8} {:>14}",
        "m", "k", "n", "f32", "bf16", "bf16 rows", "f16", "f32, 4 panels"
    );
    for (m, k, n) in shapes {
        let all = n / PANEL;
        let [f32, bf16, rows, f16, few] = [
            once(m, k, n, all, table.gemm_f32, 4),
            once(m, k, n, all, table.gemm_bf16, 2),
            once(m, k, n, all, table.gemm_bf16_rows, 2),
            once(m, k, n, all, table.gemm_f16, 2),
            once(m, k, n, 4, table.gemm_f32, 4),
        ];
        println!(
            "  {m:>5} {k:>5} {n:>5} {f32:>8.1} {bf16:>8.1} {rows:>9.1} {f16:>8.1} {few:>14.1}"
        );
    }
}

/// A sum over `bytes` of memory with many independent additions: what the machine can read.
fn read(pool: &Pool, data: &[Line]) -> f64 {
    let sink = std::sync::atomic::AtomicU32::new(0);
    data.len() as f64 * 64e-9
        / fastest(|| {
            pool.run(data.len() as u64, 1 << 12, &|_, begin, end| {
                let mut sums = [[0u32; 16]; 4];
                for lines in data[begin as usize..end as usize].chunks_exact(4) {
                    for (sum, line) in sums.iter_mut().zip(lines) {
                        for (s, x) in sum.iter_mut().zip(line.0) {
                            *s ^= x.to_bits();
                        }
                    }
                }
                sink.fetch_xor(
                    sums.as_flattened().iter().fold(0, |a, b| a ^ b),
                    std::sync::atomic::Ordering::Relaxed,
                );
            });
        })
}

fn gemv(table: &KernelTable) {
    const BYTES: usize = 256 << 20;
    let b = lines(BYTES / 4);
    println!("  few rows, streaming {} MiB, GB/s of weights", BYTES >> 20);
    println!(
        "  {:>8} {:>8} {:>4} {:>8} {:>10} {:>8} {:>10} {:>8}",
        "threads", "read", "rows", "k = n", "f32", "bf16", "bf16 rows", "f16"
    );
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        for (m, n) in [
            (1usize, 2048usize),
            (1, 4096),
            (4, 2048),
            (8, 2048),
            (64, 2048),
        ] {
            let (x, mut y) = (lines(m * n), lines(m * n));
            let (x, y) = (
                Shared(x.as_ptr().cast::<f32>().cast_mut()),
                Shared(y.as_mut_ptr().cast::<f32>()),
            );
            let weights = Shared(b.as_ptr().cast::<u8>().cast_mut());
            let run = |gemm: GemmFn, bytes: usize| {
                let matrix = n * n * bytes;
                let seconds = fastest(|| {
                    for i in 0..BYTES / matrix {
                        pool.run((n / PANEL) as u64, 8, &|_, begin, end| {
                            let (x, y, weights) = (&x, &y, &weights);
                            let p = begin as usize;
                            // SAFETY: panels begin..end are this task's.
                            unsafe {
                                let b = weights.0.add(i * matrix + p * n * PANEL * bytes);
                                gemm(
                                    m,
                                    n,
                                    x.0.cast(),
                                    n,
                                    b,
                                    end as usize - p,
                                    y.0.add(p * PANEL),
                                    n,
                                );
                            }
                        });
                    }
                });
                (BYTES / matrix * matrix) as f64 * 1e-9 / seconds
            };
            let [f32, bf16, both, f16] = [
                run(table.gemm_f32, 4),
                run(table.gemm_bf16, 2),
                run(table.gemm_bf16_rows, 2),
                run(table.gemm_f16, 2),
            ];
            println!(
                "  {threads:>8} {:>8.1} {m:>4} {n:>8} {f32:>10.1} {bf16:>8.1} {both:>10.1} {f16:>8.1}",
                read(&pool, &b)
            );
        }
    }
}

/// Weights in groups of 32: what a thread multiplies from its own cache, and what all read from memory.
fn grouped(table: &KernelTable) {
    const GROUP: usize = 128;
    let in_groups = |element| Codec::Grouped {
        element,
        group: GROUP as u32,
    };
    const BYTES: usize = 256 << 20;
    println!(
        "  weights in groups of {GROUP}, 10^9 products a second: one thread from its cache; two from memory, GB/s"
    );
    println!(
        "  {:>8} {:>4} {:>8} {:>8} {:>8} {:>12} {:>8} {:>8}",
        "weights", "rows", "f32", "q8", "q16", "f32 memory", "q8", "q16"
    );
    let memory = lines(BYTES / 4);
    for (element, gemms) in Element::ALL.iter().zip(&table.grouped) {
        for m in [1, 2, 4, 16, 128] {
            let once =
                |gemm: Option<GroupedGemmFn>, rows: Codec, k: usize, n: usize, threads: usize| {
                    let Some(gemm) = gemm else {
                        return [f64::NAN; 2];
                    };
                    let (row, codec) = (rows.row(k), in_groups(*element));
                    let matrix = codec.panel(k) * (n / PANEL);
                    let (a, mut c) = (lines(m * row / 4), lines(m * n));
                    let (a, c) = (
                        Shared(a.as_ptr().cast::<u8>().cast_mut()),
                        Shared(c.as_mut_ptr().cast::<f32>()),
                    );
                    let b = Shared(memory.as_ptr().cast::<u8>().cast_mut());
                    let pool = Pool::new(threads);
                    let count = if threads == 1 { 1 } else { BYTES / matrix };
                    let seconds = fastest(|| {
                        for i in 0..count {
                            pool.run((n / PANEL) as u64, 8, &|_, begin, end| {
                                let (a, b, c) = (&a, &b, &c);
                                let p = begin as usize;
                                // SAFETY: panels begin..end are this task's.
                                unsafe {
                                    let b = b.0.add(i * matrix + p * codec.panel(k));
                                    gemm(
                                        m,
                                        k,
                                        GROUP,
                                        a.0,
                                        row,
                                        b,
                                        end as usize - p,
                                        c.0.add(p * PANEL),
                                        n,
                                    );
                                }
                            });
                        }
                    });
                    let gigas = |each: usize| (count * each) as f64 * 1e-9 / seconds;
                    [gigas(m * n * k), gigas(matrix)]
                };
            let of = |gemm, rows| {
                [
                    once(gemm, rows, 1024, 128, 1)[0],
                    once(gemm, rows, 2048, 2048, 2)[1],
                ]
            };
            let all = [
                of(Some(gemms.f32), Codec::Plain(DType::F32)),
                of(gemms.q8, in_groups(Element::Q8)),
                of(gemms.q16, in_groups(Element::Q16)),
            ];
            let [[f, fm], [q, qm], [w, wm]] = all;
            println!(
                "  {:>8} {m:>4} {f:>8.1} {q:>8.1} {w:>8.1} {fm:>12.1} {qm:>8.1} {wm:>8.1}",
                element.to_string()
            );
        }
    }
}

fn attention(table: &KernelTable) {
    println!("  attention, one key/value head after another");
    println!(
        "  {:>22} {:>8} {:>8} {:>9} {:>12}",
        "", "us", "GFLOP/s", "GB/s", "ns per score"
    );
    let cases = [
        ("encoder 128 12 x 32", 128, 128, 12, 1, 32, false),
        ("encoder 512 12 x 64", 512, 512, 12, 1, 64, false),
        ("prefill 512 8 x 4 x 64", 512, 512, 8, 4, 64, true),
        ("prefill 512 8 x 4 x 128", 512, 512, 8, 4, 128, true),
        ("decode 128 1 x 4 x 128", 1, 128, 1, 4, 128, true),
        ("decode 128 1 x 1 x 128", 1, 128, 1, 1, 128, true),
        ("decode 512 8 x 4 x 64", 1, 512, 8, 4, 64, true),
        ("decode 4096 8 x 4 x 128", 1, 4096, 8, 4, 128, true),
        ("decode 4096 8 x 1 x 128", 1, 4096, 8, 1, 128, true),
    ];
    for (name, tokens, keys, heads, group, head_dim, causal) in cases {
        let keys: usize = keys;
        let (q_stride, kv_stride) = (heads * group * head_dim, heads * head_dim);
        // Decoders keep keys and values in blocks, encoders make them in rows.
        let rows = keys.next_multiple_of(BLOCK);
        let (q, k, v) = (
            lines(tokens * q_stride),
            lines(rows * kv_stride),
            lines(rows * kv_stride),
        );
        let head_step = if causal { BLOCK * head_dim } else { head_dim };
        let mut out = lines(tokens * q_stride);
        let lo = vec![0i32; tokens];
        let hi: Vec<i32> = (0..tokens)
            .map(|t| if causal { keys - tokens + t + 1 } else { keys } as i32)
            .collect();
        let seconds = fastest(|| {
            for h in 0..heads {
                // SAFETY: head h is inside rows of `heads` heads.
                unsafe {
                    let args = AttentionArgs {
                        q: q.as_ptr().cast::<f32>().add(h * group * head_dim),
                        q_stride,
                        k: k.as_ptr().cast::<f32>().add(h * head_step).cast(),
                        v: v.as_ptr().cast::<f32>().add(h * head_step).cast(),
                        kv_stride,
                        block_stride: if causal { BLOCK * kv_stride } else { 0 },
                        out: out.as_mut_ptr().cast::<f32>().add(h * group * head_dim),
                        out_stride: q_stride,
                        lo: lo.as_ptr(),
                        hi: hi.as_ptr(),
                        tokens,
                        group,
                        head_dim,
                        scale: 0.125,
                        softcap: 0.0,
                    };
                    (table.attention_f32)(&args);
                }
            }
        });
        let scores = hi.iter().map(|&x| f64::from(x)).sum::<f64>() * (heads * group) as f64;
        println!(
            "  {name:>22} {:>8.1} {:>8.1} {:>9.1} {:>12.3}",
            seconds * 1e6,
            scores * 4e-9 * head_dim as f64 / seconds,
            (2 * keys * kv_stride * 4) as f64 * 1e-9 / seconds,
            seconds * 1e9 / scores
        );
    }
}

fn pool() {
    println!("pool: us of an empty region (median), and of 2 x 20 us of work");
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        let spin = |us: u64| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(us) {
                std::hint::spin_loop();
            }
        };
        for gap in [0, 100, 2000] {
            let median = |work: u64| {
                let mut times: Vec<f64> = (0..500)
                    .map(|_| {
                        spin(gap);
                        let start = Instant::now();
                        pool.run(2, 1, &|_, _, _| spin(work));
                        start.elapsed().as_secs_f64() * 1e6
                    })
                    .collect();
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            };
            println!(
                "  {threads} threads, {gap:>4} us apart: {:>6.2} {:>6.1}",
                median(0),
                median(20)
            );
        }
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let names = |name: &str| wanted.iter().any(|w| w == name);
    let parts = ["gemm", "gemv", "grouped", "attention", "pool"];
    let wants = |name: &str| names(name) || !parts.iter().any(|part| names(part));
    let tables = kernels::tables();
    let any = !tables.iter().any(|(name, _)| names(name));
    for (name, table) in &tables {
        // Plain Rust calls the C library for each multiply-add: exact, a hundred times slower, shown on request.
        let shown = names(name) || (any && *name != "portable");
        if !shown {
            continue;
        }
        println!("{name}");
        if wants("gemm") {
            gemm(table);
        }
        if wants("gemv") {
            gemv(table);
        }
        if wants("grouped") {
            grouped(table);
        }
        if wants("attention") {
            attention(table);
        }
    }
    if wants("pool") {
        pool();
    }
}
