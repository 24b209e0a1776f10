//! Grouped weights and activations: against f64, against f32 panels of what they stand for, and all tables against the
//! portable one bit for bit.

use super::{Aligned, GUARD, random, tables};
use half::f16;
use ir::{
    Element,
    abi::{Codec, GroupedGemmFn, KernelTable, PANEL, STRIP},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A weight as codes `[k][columns]`, scales and zero points `[k / group][columns]`.
struct Weight {
    element: Element,
    k: usize,
    group: usize,
    columns: usize,
    codes: Vec<i32>,
    scales: Vec<f16>,
    zeros: Vec<i32>,
}

impl Weight {
    fn new(
        rng: &mut ChaCha8Rng,
        element: Element,
        k: usize,
        group: usize,
        panels: usize,
    ) -> Weight {
        let columns = panels * PANEL;
        let (least, most) = element.codes();
        let mut code = || loop {
            let code = rng.random_range(least..=most);
            if element.says(code) {
                return code;
            }
        };
        let codes = (0..k * columns).map(|_| code()).collect();
        let zeros = (0..k / group * columns).map(|_| match element.zero() {
            true => code(),
            false => 0,
        });
        let zeros = zeros.collect();
        Weight {
            element,
            k,
            group,
            columns,
            codes,
            zeros,
            scales: (0..k / group * columns)
                .map(|_| f16::from_f32(rng.random_range(0.001..0.02)))
                .collect(),
        }
    }

    fn codec(&self) -> Codec {
        Codec::Grouped {
            element: self.element,
            group: self.group as u32,
        }
    }

    fn value(&self, k: usize, column: usize) -> f32 {
        let shared = k / self.group * self.columns + column;
        let code = self.codes[k * self.columns + column];
        self.element.number(code, self.zeros[shared]) * self.scales[shared].to_f32()
    }

    /// As [`Codec::panel`] says: bit after bit.
    fn packed(&self) -> Vec<u8> {
        let (size, bits) = (self.codec().panel(self.k), self.element.width());
        let mut out = vec![0; self.codec().panels(self.columns) * size];
        let zero = usize::from(self.element.zero());
        let step = STRIP * PANEL * (2 + zero + self.group * bits / 8);
        let planes: &[usize] = match bits {
            16 => &[8, 8],
            8 => &[8],
            4 => &[4],
            3 => &[2, 1],
            other => panic!("no planes for {other} bits"),
        };
        for column in 0..self.columns {
            let (panel, j) = (column / PANEL, column % PANEL);
            let strip = panel / STRIP * STRIP * size;
            for k in 0..self.k {
                let start = strip + k / self.group * step;
                let shared = k / self.group * self.columns + column;
                let within = panel % STRIP * PANEL + j;
                out[start + within * 2..][..2].copy_from_slice(&self.scales[shared].to_le_bytes());
                if zero > 0 {
                    out[start + STRIP * PANEL * 2 + within] =
                        (self.zeros[shared] + self.element.excess()) as u8;
                }
                let code = self.codes[k * self.columns + column] + self.element.excess();
                let lines = start + STRIP * PANEL * (2 + zero);
                let (block, row) = (k % self.group / 32, k % 32);
                let (mut first, mut low) = (block * bits, 0);
                for width in planes {
                    let rows = 32 / width;
                    let line = (first + row / rows) * STRIP + panel % STRIP;
                    let byte = &mut out[lines + line * 64 + 4 * j + row % 4];
                    let part = code >> low & ((1 << width) - 1);
                    *byte |= (part << (row % rows / 4 * width)) as u8;
                    first += width;
                    low += width;
                }
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

/// Rows of integers.
fn rows_codec(wide: bool, group: usize) -> Codec {
    Codec::Grouped {
        element: if wide { Element::Q16 } else { Element::Q8 },
        group: group as u32,
    }
}

/// The rows as [`Codec::row`] lays them out.
fn rows(table: &KernelTable, wide: bool, w: &Weight, m: usize, x: &[f32]) -> Aligned<u8> {
    let codec = rows_codec(wide, w.group);
    let out = Aligned::new(&vec![0u8; m * codec.row(w.k)]);
    let quantize = match wide {
        true => table.quantize_q16,
        false => table.quantize_q8,
    };
    for i in 0..m {
        let to = out.bytes().wrapping_add(i * codec.row(w.k)).cast_mut();
        // SAFETY: row i lies in both.
        unsafe { quantize(w.k, w.group, x[i * w.k..].as_ptr(), to) };
    }
    out
}

/// What the activation `k` of a row stands for: its code, and the scale.
fn activation(row: &[u8], wide: bool, w: &Weight, k: usize) -> (i32, f32) {
    let size = if wide { 2 } else { 1 };
    let scales = &row[(w.k * size).next_multiple_of(64)..];
    let scale = &scales[k / w.group * 4..][..4];
    let scale = f32::from_le_bytes(scale.try_into().expect("4 bytes"));
    let code = match wide {
        true => {
            let at = (k / 4 * 4 + [0, 2, 1, 3][k % 4]) * 2;
            i32::from(i16::from_le_bytes([row[at], row[at + 1]]))
        }
        false => i32::from(row[k].cast_signed()),
    };
    (code, scale)
}

fn check(element: Element, m: usize, k: usize, group: usize, panels: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64((m * 1_000_003 + k * 101 + panels) as u64);
    let w = Weight::new(&mut rng, element, k, group, panels);
    let x = random(&mut rng, m * k);
    let packed = Aligned::new(&w.packed());
    let widened = Aligned::new(&w.widened());
    let tables = tables();
    let (_, portable) = tables.last().expect("portable is always listed");
    let at = element.index().expect("kernels have it");
    for (name, table) in &tables {
        let case = format!("{name}: {element}, {m} x {k} x {panels} panels, groups of {group}");
        let floats = table.grouped[at].f32;
        let got = product(floats, &w, m, (x.as_ptr().cast(), k * 4), packed.bytes());
        let mut want = vec![0.0f32; got.len()];
        // SAFETY: m rows of k and of all columns.
        unsafe {
            let c = want.as_mut_ptr();
            (table.gemm_f32)(
                m,
                k,
                x.as_ptr().cast(),
                k,
                widened.bytes(),
                panels,
                c,
                w.columns,
            );
        }
        assert!(same(&got, &want), "{case}: not the bits of f32 weights");
        for wide in [false, true] {
            let entry = |t: &KernelTable| match wide {
                true => t.grouped[at].q16,
                false => t.grouped[at].q8,
            };
            let Some((rows_element, _)) = rows_codec(wide, group).grouped() else {
                panic!("rows are grouped");
            };
            let Some(integers) = entry(table).filter(|_| element.meets(rows_element, group as u32))
            else {
                assert!(!element.meets(rows_element, 32), "{case}: no product");
                continue;
            };
            let (what, row) = (
                format!("{case} of {rows_element}"),
                rows_codec(wide, group).row(k),
            );
            let (these, twin_rows) = (
                rows(table, wide, &w, m, &x),
                rows(portable, wide, &w, m, &x),
            );
            // SAFETY: both hold m rows.
            let [a, b] = [&these, &twin_rows]
                .map(|r| unsafe { std::slice::from_raw_parts(r.bytes(), m * row) });
            assert!(a == b, "{what}: other activations");
            let got = product(integers, &w, m, (these.bytes(), row), packed.bytes());
            let twin = entry(portable).expect("as the others");
            let twin = product(twin, &w, m, (twin_rows.bytes(), row), packed.bytes());
            assert!(same(&got, &twin), "{what}: not portable's bits");
            if *name != "portable" {
                continue;
            }
            for (at, &got) in got.iter().enumerate() {
                let (i, column) = (at / w.columns, at % w.columns);
                let value = |k: usize| {
                    let (code, scale) = activation(&a[i * row..][..row], wide, &w, k);
                    f64::from(code) * f64::from(scale)
                };
                let terms = (0..k).map(|k| value(k) * f64::from(w.value(k, column)));
                let (exact, size) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
                let error = (f64::from(got) - exact).abs();
                assert!(error <= 1e-6 * size, "{what}: {got}, not {exact}");
                let step = if wide { 32767.0 } else { 127.0 };
                let near =
                    |k: usize| (value(k) - f64::from(x[i * w.k + k])).abs() <= 0.5 / step + 1e-6;
                assert!((0..k).all(near), "{what}: activations are off");
            }
        }
    }
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn grouped_weights_of_all_shapes() {
    for element in Element::ALL {
        for m in (1..=9).chain([13, 17, 64]) {
            for (k, group) in [
                (32, 32),
                (96, 32),
                (128, 64),
                (160, 160),
                (320, 32),
                (1024, 128),
            ] {
                for panels in [1, 2, 3, 5] {
                    if m * k * panels < 60_000 {
                        check(element, m, k, group, panels);
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
            let w = Weight::new(&mut rng, Element::Q8, 32, 32, 1);
            let mut row = vec![0.0; 32];
            row[3] = x;
            let a = rows(&table, false, &w, 1, &row);
            let packed = Aligned::new(&w.packed());
            let integers = table.grouped[0].q8.expect("the first is q8");
            let got = product(integers, &w, 1, (a.bytes(), 128), packed.bytes());
            assert!(
                got.iter()
                    .all(|g| *g == sum || sum.is_nan() && !g.is_finite()),
                "{name}: {x} gives {got:?}"
            );
        }
    }
}

/// Codes as large as they get, all of one sign: sums reach the ends of 32 bits.
#[test]
fn the_largest_sums_are_exact() {
    for (name, table) in tables() {
        for (at, element) in Element::ALL.into_iter().enumerate() {
            let groups = (1..=64).map(|i| 32 * i);
            let most = groups.filter(|g| element.meets(Element::Q16, *g)).max();
            let (Some(group), Some(gemm)) = (most, table.grouped[at].q16) else {
                continue;
            };
            let group = group as usize;
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let mut w = Weight::new(&mut rng, element, group, group, 1);
            let (least, most) = element.codes();
            w.codes.fill(most);
            w.scales.fill(f16::ONE);
            if element.zero() {
                w.zeros.fill(least);
            }
            let row = rows(&table, true, &w, 1, &vec![1.0; group]);
            let packed = Aligned::new(&w.packed());
            let bytes = rows_codec(true, group).row(group);
            let got = product(gemm, &w, 1, (row.bytes(), bytes), packed.bytes());
            let span = most - if element.zero() { least } else { 0 };
            let exact = 32767.0 * f64::from(span) * group as f64;
            let want = exact as f32 * (1.0 / 32767.0f32);
            assert_eq!(got[0], want, "{name}: {element} in {group}");
        }
    }
}

#[test]
fn fake_activations_are_what_codes_stand_for() {
    for (name, table) in tables() {
        for (wide, bits) in [(false, 8), (true, 16)] {
            let mut rng = ChaCha8Rng::seed_from_u64(5);
            let w = Weight::new(&mut rng, Element::Q8, 96, 32, 1);
            let x = random(&mut rng, 96);
            let a = rows(&table, wide, &w, 1, &x);
            // SAFETY: one row of 96.
            let row =
                unsafe { std::slice::from_raw_parts(a.bytes(), rows_codec(wide, 32).row(96)) };
            let mut fake = vec![0.0f32; 96];
            // SAFETY: as above.
            unsafe { (table.fake_quantize)(bits, 96, 32, x.as_ptr(), fake.as_mut_ptr()) };
            for (k, fake) in fake.iter().enumerate() {
                let (code, scale) = activation(row, wide, &w, k);
                assert_eq!(*fake, code as f32 * scale, "{name}: {bits} bits at {k}");
            }
        }
    }
}
