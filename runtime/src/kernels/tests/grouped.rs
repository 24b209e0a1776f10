//! Grouped weights and activations: against f64, against f32 panels of what they stand for, and all tables against the
//! portable one bit for bit.

use super::{Aligned, GUARD, random, tables};
use half::f16;
use ir::abi::{Codec, GroupedGemmFn, KernelTable, PANEL, STRIP};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A weight as codes `[k][columns]` and scales `[k / group][columns]`.
struct Weight {
    bits: u8,
    k: usize,
    group: usize,
    columns: usize,
    codes: Vec<i32>,
    scales: Vec<f16>,
}

impl Weight {
    fn new(rng: &mut ChaCha8Rng, bits: u8, k: usize, group: usize, panels: usize) -> Weight {
        let (columns, most) = (panels * PANEL, if bits == 8 { 127 } else { 7 });
        Weight {
            bits,
            k,
            group,
            columns,
            codes: (0..k * columns)
                .map(|_| rng.random_range(-most..=most))
                .collect(),
            scales: (0..k / group * columns)
                .map(|_| f16::from_f32(rng.random_range(0.001..0.02)))
                .collect(),
        }
    }

    fn codec(&self) -> Codec {
        Codec::Grouped {
            bits: self.bits,
            group: self.group as u32,
        }
    }

    fn value(&self, k: usize, column: usize) -> f32 {
        let scale = self.scales[k / self.group * self.columns + column];
        self.codes[k * self.columns + column] as f32 * scale.to_f32()
    }

    /// As [`Codec::panel`] says.
    fn packed(&self) -> Vec<u8> {
        let (size, bits) = (self.codec().panel(self.k), usize::from(self.bits));
        let mut out = vec![0xEE; self.codec().panels(self.columns) * size];
        let step = STRIP * PANEL * (2 + self.group * bits / 8);
        for column in 0..self.columns {
            let (panel, j) = (column / PANEL, column % PANEL);
            let strip = panel / STRIP * STRIP * size;
            for k in 0..self.k {
                let start = strip + k / self.group * step;
                let scale = self.scales[k / self.group * self.columns + column];
                let at = start + (panel % STRIP * PANEL + j) * 2;
                out[at..at + 2].copy_from_slice(&scale.to_le_bytes());

                let rows = 32 / bits;
                let line = k % self.group / rows * STRIP + panel % STRIP;
                let byte = &mut out[start + STRIP * PANEL * 2 + line * 64 + 4 * j + k % 4];
                let code = self.codes[k * self.columns + column];
                *byte = match (bits, k % rows) {
                    (8, _) => (code + 128) as u8,
                    (_, 0..4) => *byte & 0xF0 | (code + 8) as u8,
                    _ => *byte & 0x0F | ((code + 8) as u8) << 4,
                };
            }
        }
        out
    }

    /// f32 panels of the same values.
    fn widened(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.k * self.columns];
        for (k, column) in (0..self.k).flat_map(|k| (0..self.columns).map(move |c| (k, c))) {
            out[(column / PANEL * self.k + k) * PANEL + column % PANEL] = self.value(k, column);
        }
        out
    }
}

/// Runs `gemm` on a poisoned output inside guards.
fn product(
    gemm: GroupedGemmFn,
    w: &Weight,
    m: usize,
    (a, lda): (*const u8, usize),
    packed: *const u8,
) -> Vec<f32> {
    let ldc = w.columns + 3;
    let mut c = vec![GUARD; (m + 1) * ldc];
    for i in 0..m {
        c[i * ldc..][..w.columns].fill(f32::NAN);
    }
    let panels = w.columns / PANEL;
    // SAFETY: all operands have the extents stated.
    unsafe { gemm(m, w.k, w.group, a, lda, packed, panels, c.as_mut_ptr(), ldc) };
    let inside = |i: &usize| i / ldc < m && i % ldc < w.columns;
    assert!(
        (0..c.len()).filter(|i| !inside(i)).all(|i| c[i] == GUARD),
        "wrote outside"
    );
    (0..c.len()).filter(inside).map(|i| c[i]).collect()
}

/// The rows as [`Codec::row`] lays them out.
fn rows(table: &KernelTable, w: &Weight, m: usize, x: &[f32]) -> Aligned<u8> {
    let codec = Codec::Grouped {
        bits: 8,
        group: w.group as u32,
    };
    let out = Aligned::new(&vec![0u8; m * codec.row(w.k)]);
    for i in 0..m {
        let to = out.bytes().wrapping_add(i * codec.row(w.k)).cast_mut();
        // SAFETY: row i lies in both.
        unsafe { (table.quantize_q8)(w.k, w.group, x[i * w.k..].as_ptr(), to) };
    }
    out
}

fn check(bits: u8, m: usize, k: usize, group: usize, panels: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64((m * 1_000_003 + k * 101 + panels) as u64);
    let w = Weight::new(&mut rng, bits, k, group, panels);
    let x = random(&mut rng, m * k);
    let packed = Aligned::new(&w.packed());
    let widened = Aligned::new(&w.widened());
    let tables = tables();
    let (_, portable) = tables.last().expect("portable is always listed");
    let row = Codec::Grouped {
        bits: 8,
        group: group as u32,
    }
    .row(k);
    let twin_rows = rows(portable, &w, m, &x);
    let entries = |t: &KernelTable| match bits {
        8 => [t.gemm_f32_q8, t.gemm_q8_q8],
        _ => [t.gemm_f32_q4, t.gemm_q8_q4],
    };
    let [_, twin] = entries(portable);
    let twin = product(twin, &w, m, (twin_rows.bytes(), row), packed.bytes());
    for (name, table) in &tables {
        let case = format!("{name}: {bits} bits, {m} x {k} x {panels} panels, groups of {group}");
        let [floats, integers] = entries(table);
        let got = product(floats, &w, m, (x.as_ptr().cast(), k * 4), packed.bytes());
        let mut want = vec![0.0f32; got.len()];
        // SAFETY: m rows of k and of all columns.
        unsafe {
            let c = want.as_mut_ptr();
            (table.gemm_f32)(m, k, x.as_ptr(), k, widened.bytes(), panels, c, w.columns);
        }
        assert!(same(&got, &want), "{case}: not the bits of f32 weights");

        let these = rows(table, &w, m, &x);
        // SAFETY: both hold m rows.
        let [a, b] =
            [&these, &twin_rows].map(|r| unsafe { std::slice::from_raw_parts(r.bytes(), m * row) });
        assert!(a == b, "{case}: other activations");
        let got = product(integers, &w, m, (these.bytes(), row), packed.bytes());
        assert!(same(&got, &twin), "{case}: not portable's bits");
        for (at, &got) in got.iter().enumerate() {
            let (i, column) = (at / w.columns, at % w.columns);
            let code = |k: usize| {
                let scales = &a[i * row + w.k.next_multiple_of(64)..];
                let at = k / group * 4;
                let scale = f32::from_le_bytes(scales[at..at + 4].try_into().expect("4 bytes"));
                f64::from(a[i * row + k].cast_signed()) * f64::from(scale)
            };
            let terms = (0..k).map(|k| code(k) * f64::from(w.value(k, column)));
            let (exact, size) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
            let error = (f64::from(got) - exact).abs();
            assert!(error <= 1e-6 * size, "{case}: {got}, not {exact}");
            let near = |k: usize| (code(k) - f64::from(x[i * w.k + k])).abs() <= 0.5 / 127.0 + 1e-6;
            assert!(
                (0..k).all(near),
                "{case}: activations are not near what they stand for"
            );
        }
    }
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn grouped_weights_of_all_shapes() {
    for bits in [8, 4] {
        for m in (1..=17).chain([64]) {
            for (k, group) in [
                (32, 32),
                (96, 32),
                (128, 64),
                (160, 160),
                (320, 32),
                (1024, 128),
            ] {
                for panels in [1, 2, 3, 5] {
                    if m * k * panels < 200_000 {
                        check(bits, m, k, group, panels);
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so_and_zero_stays_zero() {
    for (name, table) in tables() {
        for (x, sum) in [
            (0.0f32, 0.0f32),
            (1e-40, 0.0),
            (f32::NAN, f32::NAN),
            (f32::INFINITY, f32::NAN),
        ] {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let w = Weight::new(&mut rng, 8, 32, 32, 1);
            let mut row = vec![0.0; 32];
            row[3] = x;
            let a = rows(&table, &w, 1, &row);
            let packed = Aligned::new(&w.packed());
            let got = product(table.gemm_q8_q8, &w, 1, (a.bytes(), 128), packed.bytes());
            assert!(
                got.iter()
                    .all(|g| *g == sum || sum.is_nan() && !g.is_finite()),
                "{name}: {x} gives {got:?}"
            );
        }
    }
}

#[test]
fn fake_activations_are_what_codes_stand_for() {
    for (name, table) in tables() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let w = Weight::new(&mut rng, 8, 96, 32, 1);
        let x = random(&mut rng, 96);
        let a = rows(&table, &w, 1, &x);
        // SAFETY: one row of 96.
        let row = unsafe { std::slice::from_raw_parts(a.bytes(), 192) };
        let mut fake = vec![0.0f32; 96];
        // SAFETY: as above.
        unsafe { (table.fake_quantize)(8, 96, 32, x.as_ptr(), fake.as_mut_ptr()) };
        for (k, fake) in fake.iter().enumerate() {
            let scale = &row[128 + k / 32 * 4..][..4];
            let scale = f32::from_le_bytes(scale.try_into().expect("4 bytes"));
            assert_eq!(
                *fake,
                f32::from(row[k].cast_signed()) * scale,
                "{name} at {k}"
            );
        }
    }
}
