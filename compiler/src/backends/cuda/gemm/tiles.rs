//! Many rows: tiles of the output, on the tensor cores where weights lie in cells.

use super::{FEW, Gemm, MULTIPROCESSORS};
use crate::backends::cuda::{rows::TOGETHER, source::Source, text::Text};
use ir::{
    DType,
    abi::cuda::{Cell, TILE},
    artifact::TensorMap,
};

/// Elements of rows that lie together, 128 bytes each.
const PANEL: u32 = 64;
/// Columns of a tile for two warpgroups, of all weights together.
const COLUMNS: i64 = 128;

/// A parameter for rows in shared memory, and what instructions name of it; for rows in registers.
pub const SHARED: (&str, &[&str]) = ("u64 a", &["a"]);
/// See [`SHARED`].
pub const REGISTERS: (&str, &[&str]) = ("const u32 (&a)[4]", &["a[0]", "a[1]", "a[2]", "a[3]"]);

/// A function of that name that adds to `d`, or sets it to, 64 rows of `a` times `n` rows that lie at `b`, or columns that are `turned`.
pub fn wgmma(t: &mut Text, name: &str, n: i64, (a, registers): (&str, &[&str]), turned: bool) {
    let sums = n / 2;
    let numbered = |from: i64, count: usize| {
        let names = (from..).take(count).map(|i| format!("%{i}"));
        names.collect::<Vec<_>>().join(", ")
    };
    let first = numbered(sums, registers.len());
    // Matrices in shared memory may be turned, those in registers not.
    let (first, kind, upright) = match registers.len() {
        1 => (first, "l", ", 0"),
        _ => (format!("{{{first}}}"), "r", ""),
    };
    let turned = i32::from(turned);
    let next = sums + registers.len() as i64;
    let outputs: Vec<String> = (0..sums).map(|i| format!("\"+f\"(d[{i}])")).collect();
    let inputs = registers.iter().map(|r| format!("\"{kind}\"({r}), "));
    t.block(
        format!("INLINE void {name}(float (&d)[{sums}], {a}, u64 b, int add)"),
        |t| {
            t.line(format_args!(
                "asm volatile(\"{{ .reg .pred p; setp.ne.b32 p, %{}, 0; wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 \"",
                next + 1
            ));
            t.line(format_args!(
                "\"{{{}}}, {first}, %{next}, p, 1, 1{upright}, {turned}; }}\"",
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
        // Sums of few bits wait for their scales in registers; rows of f32 are taken apart by all threads.
        let copied = self.copied();
        let highest = if cell.groups == 0 { 256 } else { 128 };
        let heights: &[i64] = match copied {
            true => &[32, 64, 96, 128, 160, 192, 224, 256],
            false => &[64, 128, 256],
        };
        let heights: Vec<i64> = heights.iter().copied().filter(|h| *h <= highest).collect();
        let limits = (5..13).flat_map(|i| [1 << i, 3 << (i - 1)]);
        let limits = limits.filter(|rows| *rows > small).chain([u64::MAX]);
        let mut chosen: Vec<(u64, i64)> = vec![];
        for rows in limits {
            let best = heights
                .iter()
                .min_by_key(|h| self.clocks(**h, rows.min(1 << 13), copied));
            let height = *best.ok_or("no heights of tiles")?;
            match chosen.last_mut() {
                Some(last) if last.1 == height => last.0 = rows,
                _ => chosen.push((rows, height)),
            }
        }
        for (rows, height) in chosen {
            sources.push(match copied {
                true => self.pipeline(cell, height, rows)?,
                false => self.warpgroups(cell, height, rows)?,
            });
        }
        Ok(sources)
    }

    /// Whether rows can be copied in boxes: they lie one right behind the other, at multiples of 16 bytes.
    fn copied(&self) -> bool {
        let x = &self.views[0];
        x.dtype == DType::BF16 && x.strides == [self.depth, 1] && self.depth % 8 == 0
    }

    /// What tiles of so many rows by [`COLUMNS`] take on an H200, in clocks.
    fn clocks(&self, height: i64, rows: u64, copied: bool) -> u64 {
        let across = self.product.columns * self.product.weights as i64;
        let tiles = (across as u64).div_ceil(COLUMNS as u64) * rows.div_ceil(height as u64);
        // The L2 cache gives a multiprocessor 24 bytes a clock, of which rows of f32 take more; then a tile leaves.
        let height = height as u64;
        let bytes = match copied {
            true => 2 * (COLUMNS as u64 + height / self.blocks(height as i64) as u64),
            false => 2 * COLUMNS as u64 + 4 * height,
        };
        let waves = tiles.div_ceil(MULTIPROCESSORS as u64);
        waves * (self.padded as u64 * bytes / 24 + 16 * height)
    }

    /// Blocks that share rows of a tile.
    fn blocks(&self, height: i64) -> i64 {
        let several = self.product.columns * self.product.weights as i64 > COLUMNS;
        if several && height >= 64 { 2 } else { 1 }
    }

    /// How many neighbours leave together.
    fn width(&self) -> i64 {
        match self.product.columns % TOGETHER {
            0 => TOGETHER,
            _ => 1,
        }
    }

    /// Tiles of `height` rows by [`COLUMNS`], of all weights together, whose rows are copied in boxes.
    fn pipeline(&self, cell: Cell, height: i64, rows: u64) -> Result<Source, String> {
        /// Bytes of sums that leave, and of barriers.
        const REST: i64 = 2 * 32 * 68 * 4 + 128;
        let mut t = self.text(self.width())?;
        // Tiles of one weight for a warpgroup, which are copied at once, to a multiple of 128 bytes.
        let tiles = 8 / self.product.weights;
        let weights = 2 * self.product.weights * (tiles * cell.bytes()).next_multiple_of(128);
        let stage = 2 * cell.depth as i64 * height + weights as i64;
        let stages = ((self.chip.shared - REST) / stage).min(6);
        let blocks = self.blocks(height);
        let each = COLUMNS / self.product.weights as i64;
        let across = (self.product.columns as u64).div_ceil(each as u64);
        let across = across.next_multiple_of(blocks as u64);
        t.constant("TM", height);
        t.constant("STAGES", stages);
        t.constant("BLOCKS", blocks);
        t.constant("ACROSS", across);
        self.wgmma(&mut t, height);
        let skeleton = &[
            include_str!("../kernels/cells.cu"),
            include_str!("../kernels/wgmma.cu"),
            include_str!("../kernels/pipeline.cu"),
        ];
        let mut source = self.source("pipeline", t, skeleton, (height as u64, each as u64));
        source.tasks.columns = across;
        Ok(Source {
            rows,
            threads: 384,
            shared: (stages * stage + REST) as u32,
            resident: 1,
            maps: self.maps(cell, tiles as u32, (height / blocks) as u32),
            ..source
        })
    }

    /// Of `rows` rows of x, in panels, and of `tiles` tiles of each weight, a cell of each.
    fn maps(&self, cell: Cell, tiles: u32, rows: u32) -> Vec<TensorMap> {
        let depth = self.depth as u64;
        let x = TensorMap {
            operand: 0,
            element: 2,
            shape: [depth, 0, 1],
            strides: [2 * depth, 2 * depth],
            tile: [PANEL, rows, 1],
            permuted: true,
        };
        let (bytes, cells) = (cell.bytes() as u64, self.padded as u64 / cell.depth as u64);
        let weight = |i: usize| TensorMap {
            operand: 1 + i as u32,
            element: 4,
            shape: [
                bytes / 4,
                cells,
                (self.product.columns as u64).div_ceil(TILE as u64),
            ],
            strides: [bytes, bytes * cells],
            tile: [bytes as u32 / 4, 1, tiles],
            permuted: false,
        };
        let weights = (0..self.product.weights).map(weight);
        [x].into_iter().chain(weights).collect()
    }

    /// Products of 64 columns of the weights, from shared memory or registers, with `height` rows.
    fn wgmma(&self, t: &mut Text, height: i64) {
        for a in [SHARED, REGISTERS] {
            wgmma(t, "wgmma", height, a, false);
        }
    }

    /// Tiles of `height` rows by [`COLUMNS`], of all weights together, for two warpgroups.
    fn warpgroups(&self, cell: Cell, height: i64, rows: u64) -> Result<Source, String> {
        let mut t = self.text(self.width())?;
        // What products may still read is a stage more.
        let (stages, step) = (3, 32);
        t.constant("TM", height);
        t.constant("STAGES", stages);
        self.wgmma(&mut t, height);
        let stage = 2 * self.terms * step * height + COLUMNS / 8 * cell.bytes() as i64;
        let sums = 4 * height * (COLUMNS + 4);
        let skeleton = &[
            include_str!("../kernels/cells.cu"),
            include_str!("../kernels/wgmma.cu"),
            include_str!("../kernels/warpgroups.cu"),
        ];
        let across = COLUMNS / self.product.weights as i64;
        Ok(Source {
            rows,
            shared: (stages * stage).max(sums) as u32,
            ..self.source("warpgroups", t, skeleton, (height as u64, across as u64))
        })
    }

    /// Rows up to which such tiles are at most one for each multiprocessor.
    fn one_wave(&self, side: i64, wn: i64) -> u64 {
        let across = self.product.columns.max(1) as u64;
        let across = across.div_ceil(self.tile_columns(side, wn) as u64);
        MULTIPROCESSORS as u64 / across * side as u64
    }

    /// Columns of each weight in a tile of `side` rows for `wn` warps across.
    fn tile_columns(&self, side: i64, wn: i64) -> i64 {
        (side / self.product.weights as i64).max(8 * wn)
    }

    /// Tiles of `side` rows by as many columns, of all weights together, for `wm` times `wn` warps.
    fn tensor(&self, cell: Cell, side: i64, wm: i64, wn: i64, rows: u64) -> Result<Source, String> {
        const STAGES: i64 = 3;
        let mut t = self.text(1)?;
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
        let text = self.text(1)?;
        let skeleton = &[include_str!("../kernels/exact.cu")];
        Ok(self.source("exact", text, skeleton, (64, 64)))
    }
}
