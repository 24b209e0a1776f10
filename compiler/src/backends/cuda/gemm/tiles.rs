//! Many rows: tiles of the output, on the tensor cores where weights lie in cells.

use super::{FEW, Gemm, MULTIPROCESSORS};
use crate::backends::cuda::{source::Source, text::Text};
use ir::{
    DType,
    abi::cuda::{Cell, TILE},
};

/// Columns of a tile for two warpgroups, of all weights together.
const COLUMNS: i64 = 128;

/// A function that adds to `d`, or sets it to, 64 rows of `a` times `n` rows that lie at `b`.
fn wgmma(t: &mut Text, n: i64, a: &str, registers: &[&str]) {
    let sums = n / 2;
    let numbered = |from: i64, count: usize| {
        let names = (from..).take(count).map(|i| format!("%{i}"));
        names.collect::<Vec<_>>().join(", ")
    };
    let first = numbered(sums, registers.len());
    // Matrices in shared memory may be turned, those in registers not.
    let (first, kind, turned) = match registers.len() {
        1 => (first, "l", ", 0, 0"),
        _ => (format!("{{{first}}}"), "r", ", 0"),
    };
    let next = sums + registers.len() as i64;
    let outputs: Vec<String> = (0..sums).map(|i| format!("\"+f\"(d[{i}])")).collect();
    let inputs = registers.iter().map(|r| format!("\"{kind}\"({r}), "));
    t.block(
        format!("INLINE void wgmma(float (&d)[{sums}], {a}, u64 b, int add)"),
        |t| {
            t.line(format_args!(
                "asm volatile(\"{{ .reg .pred p; setp.ne.b32 p, %{}, 0; wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 \"",
                next + 1
            ));
            t.line(format_args!(
                "\"{{{}}}, {first}, %{next}, p, 1, 1{turned}; }}\"",
                numbered(0, sums as usize)
            ));
            t.line(format_args!(
                ": {} : {}\"l\"(b), \"r\"(add));",
                outputs.join(", "),
                inputs.collect::<String>()
            ));
        },
    );
}

impl Gemm<'_> {
    /// Variants for more rows than are streamed, weights in cells.
    pub(super) fn tiles(&self, cell: Cell) -> Result<Vec<Source>, String> {
        let mut sources = vec![];
        let warpgroups = self.chip.warpgroups && COLUMNS % (8 * self.product.weights as i64) == 0;
        // Small tiles while larger ones would leave multiprocessors without any.
        let small = match self.terms {
            1 if warpgroups => FEW,
            _ => self.one_wave(64, 2),
        };
        if small > FEW {
            sources.push(self.tensor(cell, 32, 2, 2, small)?);
        }
        if !warpgroups {
            // Few bits have no registers left for larger ones.
            let middle = match cell.groups {
                0 => self.one_wave(128, 4).max(64),
                _ => u64::MAX,
            };
            if middle > small {
                sources.push(self.tensor(cell, 64, 2, 2, middle)?);
            }
            if middle < u64::MAX {
                sources.push(self.tensor(cell, 128, 2, 4, u64::MAX)?);
            }
            return Ok(sources);
        }
        // Rows of f32 are taken apart by all threads; sums of few bits wait for their scales in registers.
        let lowest = if self.terms == 1 { 32 } else { 64 };
        let highest = if cell.groups == 0 { 256 } else { 128 };
        let heights = [32, 64, 128, 256].into_iter();
        let heights: Vec<i64> = heights.filter(|h| (lowest..=highest).contains(h)).collect();
        let limits = (5..12).flat_map(|i| [1 << i, 3 << (i - 1)]);
        let limits = limits.filter(|rows| *rows > small).chain([u64::MAX]);
        let mut chosen: Vec<(u64, i64)> = vec![];
        for rows in limits {
            let best = heights
                .iter()
                .min_by_key(|h| self.waves(**h, rows.min(1 << 13)));
            let height = *best.ok_or("no heights of tiles")?;
            match chosen.last_mut() {
                Some(last) if last.1 == height => last.0 = rows,
                _ => chosen.push((rows, height)),
            }
        }
        for (rows, height) in chosen {
            sources.push(self.warpgroups(cell, height, rows)?);
        }
        Ok(sources)
    }

    /// What tiles of so many rows by [`COLUMNS`] take, in units of a part of a wave's time that does not depend on their height:
    /// on an H200 a wave of 128 rows takes 21 clocks for each element of the depth, of 256 rows 35.
    fn waves(&self, height: i64, rows: u64) -> u64 {
        let across = self.product.columns * self.product.weights as i64;
        let tiles = (across as u64).div_ceil(COLUMNS as u64) * rows.div_ceil(height as u64);
        tiles.div_ceil(MULTIPROCESSORS as u64) * (64 + height as u64)
    }

    /// Columns of each weight in a tile of `side` rows for `wn` warps across.
    fn tile_columns(&self, side: i64, wn: i64) -> i64 {
        (side / self.product.weights as i64).max(8 * wn)
    }

    /// Rows up to which such tiles are at most one for each multiprocessor.
    fn one_wave(&self, side: i64, wn: i64) -> u64 {
        let across = self.product.columns.max(1) as u64;
        let across = across.div_ceil(self.tile_columns(side, wn) as u64);
        MULTIPROCESSORS as u64 / across * side as u64
    }

    /// Tiles of `height` rows by [`COLUMNS`], of all weights together, for two warpgroups.
    fn warpgroups(&self, cell: Cell, height: i64, rows: u64) -> Result<Source, String> {
        let mut t = self.text()?;
        // Rows of f32 go through registers, and what products may still read is a stage more.
        let (stages, step) = match self.terms {
            1 => (4, 64),
            _ => (3, 32),
        };
        t.constant("TM", height);
        t.constant("STAGES", stages);
        self.rows_to_copy(&mut t);
        wgmma(&mut t, height, "u64 a", &["a"]);
        let registers = ["a[0]", "a[1]", "a[2]", "a[3]"];
        wgmma(&mut t, height, "const u32 (&a)[4]", &registers);
        let stage = 2 * self.terms * step * height + COLUMNS / 8 * cell.bytes() as i64;
        let sums = 4 * height * (COLUMNS + 4);
        let skeleton = &[
            include_str!("../kernels/cells.cu"),
            include_str!("../kernels/warpgroups.cu"),
        ];
        let across = COLUMNS / self.product.weights as i64;
        Ok(Source {
            rows,
            shared: (stages * stage).max(sums) as u32,
            ..self.source("warpgroups", t, skeleton, (height as u64, across as u64))
        })
    }

    /// Where rows of bf16 start, if copies of 16 bytes can read them.
    fn rows_to_copy(&self, t: &mut Text) {
        let x = &self.views[0];
        let narrow = x.dtype == DType::BF16;
        let copied = narrow && x.strides[0] % 8 == 0 && self.depth % 8 == 0;
        t.constant("ROW", x.strides[0] * x.dtype.bytes() as i64);
        let base = match copied {
            true => "((u64)args.p[0] & 15) == 0 ? args.p[0] : 0",
            false => "0",
        };
        t.line(format_args!(
            "INLINE const char* rows_to_copy(const Args& args) {{ return {base}; }}"
        ));
    }

    /// Tiles of `side` rows by as many columns, of all weights together, for `wm` times `wn` warps.
    fn tensor(&self, cell: Cell, side: i64, wm: i64, wn: i64, rows: u64) -> Result<Source, String> {
        const STAGES: i64 = 3;
        let mut t = self.text()?;
        let weights = self.product.weights as i64;
        let columns = self.tile_columns(side, wn);
        t.constant("TM", side);
        t.constant("TN", columns);
        t.constant("WM", wm);
        t.constant("WN", wn);
        t.constant("STAGES", STAGES);
        let tiles = columns / TILE as i64;
        let shared = 2 * self.terms * side * 64 + STAGES * weights * tiles * cell.bytes() as i64;
        let tile = (side as u64, columns as u64);
        let skeleton = &[
            include_str!("../kernels/cells.cu"),
            include_str!("../kernels/tensor.cu"),
        ];
        Ok(Source {
            rows,
            threads: 32 * (wm * wn) as u32,
            shared: shared as u32,
            ..self.source("tensor", t, skeleton, tile)
        })
    }

    pub(super) fn exact(&self) -> Result<Source, String> {
        let text = self.text()?;
        let skeleton = &[include_str!("../kernels/exact.cu")];
        Ok(self.source("exact", text, skeleton, (64, 64)))
    }
}
