//! The Gemm template: weights of bf16 and of few bits on the tensor cores, for few rows at the speed of memory; others,
//! which those would round, in f32. Here is what the four skeletons are given: constants, the input, the body.

use super::{
    map,
    rows::{Row, RowBody, Team},
    source::Source,
    text::{self, Text},
};
use crate::schedule::{Inlined, View};
use ir::{
    DType, Graph, Name,
    abi::{
        Codec,
        cuda::{Cell, DEPTH, TILE},
    },
    artifact::Tasks,
};
use std::collections::HashMap;

/// Bytes of shared memory that rows of x may take beside the partial sums.
const STAGED: i64 = 64 << 10;
/// Bytes of shared memory for partial sums.
const SUMS: i64 = 32 << 10;
/// Of the GPUs that this is tuned for.
const MULTIPROCESSORS: i64 = 132;
/// Rows up to which weights are streamed.
const FEW: u64 = 10;
/// Bf16 numbers whose sum is an f32 number.
const TERMS: i64 = 3;

/// What is multiplied: see [`Template::Gemm`](crate::schedule::Template::Gemm).
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    pub body: &'a Graph,
    pub weights: usize,
    pub columns: i64,
    pub codec: Codec,
    /// What computes the row of x in steps of one.
    pub inlined: Option<&'a Inlined>,
}

/// What every variant of a kernel shares.
struct Gemm<'a> {
    product: Product<'a>,
    views: &'a [View],
    symbols: &'a [Name],
    /// Bytes of shared memory that a block may have.
    shared: i64,
    depth: i64,
    /// Elements of a row of the packed weights.
    padded: i64,
}

/// The kernel's sources, for blocks that may have so many bytes of shared memory.
pub fn emit(
    product: Product<'_>,
    views: &[View],
    symbols: &[Name],
    shared: i64,
) -> Result<Vec<Source>, String> {
    let x = &views[0];
    if x.dtype != DType::F32 {
        return Err(format!("reads rows of {}", x.dtype));
    }
    let depth = x.shape[1].known().ok_or("symbolic inner axis")?;
    let codec = product.codec;
    let cell = Cell::of(codec);
    let gemm = Gemm {
        product,
        views,
        symbols,
        shared,
        depth,
        padded: (depth.max(1) as usize).next_multiple_of(cell.map_or(DEPTH, |c| c.depth)) as i64,
    };
    Ok(match (codec, cell) {
        (_, Some(cell)) => {
            let mut sources = vec![
                gemm.stream(cell, 1)?,
                gemm.stream(cell, 5)?,
                gemm.stream(cell, FEW as i64)?,
            ];
            // Small tiles while larger ones would leave multiprocessors without any.
            let small = gemm.one_wave(64, 2);
            if small > FEW {
                sources.push(gemm.tensor(cell, 32, 2, 2, small)?);
            }
            let middle = gemm.one_wave(128, 4).max(64);
            if middle > small {
                sources.push(gemm.tensor(cell, 64, 2, 2, middle)?);
            }
            sources.push(gemm.tensor(cell, 128, 2, 4, u64::MAX)?);
            sources
        }
        (Codec::Plain(dtype), None) => vec![
            gemm.few_rows(dtype, 1)?,
            gemm.few_rows(dtype, 4)?,
            gemm.few_rows(dtype, 8)?,
            gemm.exact()?,
        ],
        (Codec::Grouped { .. }, None) => return Err(format!("weights of {codec}")),
    })
}

impl Gemm<'_> {
    /// Constants and functions that every skeleton reads.
    fn text(&self) -> Result<Text, String> {
        let mut t = Text::default();
        let codec = match self.product.codec {
            Codec::Plain(DType::F32) => "F32".into(),
            Codec::Plain(DType::BF16) => "CellBF16".into(),
            Codec::Plain(DType::F16) => "F16".into(),
            Codec::Grouped { bits, group } => format!("Cell{bits}<{group}>"),
            other => return Err(format!("weights of {other}")),
        };
        let (x, stride) = (&self.views[0], self.views[0].strides[0]);
        t.line(format_args!("using Codec = {codec};"));
        t.constant("K", self.depth);
        t.constant("KP", self.padded);
        t.constant("N", self.product.columns);
        t.constant("WEIGHTS", self.product.weights);
        let rows = text::dim(&x.shape[0], self.symbols)?;
        t.line(format_args!(
            "INLINE int rows(const Args& args) {{ return {rows}; }}"
        ));
        t.line("INLINE const char* weight(const Args& args, int w) { return args.p[1 + w]; }");
        self.input4(&mut t, stride);
        self.finish(&mut t)?;
        Ok(t)
    }

    /// A row of x, put where the skeleton wants each element; beyond its end are zeros.
    fn stage(&self, t: &mut Text, threads: i64, rows: i64) -> Result<(), String> {
        let args = "const Args& args, float* staged, int m";
        t.line("INLINE void stage_element(float* staged, int m, int k, float x);");
        t.line("INLINE void stage_four(float* staged, int m, int k, float4 x);");
        let head = format!("INLINE void compute_row({args}, int lane)");
        let team = Team::Threads(threads as u32);
        let inlined = self.product.inlined.filter(|_| rows == 1);
        if let Some(inlined) = inlined {
            let store = |t: &mut Text, column: &str, x: &str| {
                t.line(format_args!("stage_element(staged, m, {column}, {x});"));
            };
            map::function(t, &head, inlined, self.views, &["m"], team, &store)?;
        }
        t.block(format!("INLINE void stage({args})"), |t| {
            let mut from = "threadIdx.x".to_string();
            if inlined.is_some() {
                t.line("compute_row(args, staged, m, threadIdx.x);");
                from = format!("{} + threadIdx.x", self.depth / 4);
            }
            t.line("#pragma unroll 4");
            t.block(
                format!("for (int i = {from}; i < KP / 4; i += {threads})"),
                |t| {
                    t.line("const float4 x = input4(args, m, 4 * i);");
                    if inlined.is_none() {
                        t.line("stage_four(staged, m, 4 * i, x);");
                        return;
                    }
                    for (e, x) in ["x", "y", "z", "w"].iter().enumerate() {
                        t.line(format_args!(
                            "if (4 * i + {e} >= K) stage_element(staged, m, 4 * i + {e}, x.{x});"
                        ));
                    }
                },
            );
        });
        Ok(())
    }

    /// Four neighbours of x, zero beyond its end: every skeleton reads x through this alone, so that a prologue's body
    /// has one place.
    fn input4(&self, t: &mut Text, stride: i64) {
        t.block("INLINE float4 input4(const Args& args, int m, int k)", |t| {
            t.line(format_args!(
                "const float* at = (const float*)args.p[0] + (i64)m * {stride} + k;"
            ));
            if stride % 4 == 0 && self.depth % 4 == 0 {
                t.line("if (((u64)args.p[0] & 15) == 0) return k < K ? *(const float4*)at : make_float4(0.0f, 0.0f, 0.0f, 0.0f);");
            }
            t.line("return make_float4(k < K ? at[0] : 0.0f, k + 1 < K ? at[1] : 0.0f, k + 2 < K ? at[2] : 0.0f, k + 3 < K ? at[3] : 0.0f);");
        });
    }

    /// The body at one element, stored.
    fn finish(&self, t: &mut Text) -> Result<(), String> {
        let head = "INLINE void finish(const Args& args, int m, int n, const float* acc)";
        t.block(head, |t| {
            let mut rows = HashMap::new();
            for (i, input) in self.product.body.inputs().iter().enumerate() {
                let row = if i < self.product.weights {
                    Row {
                        address: format!("(const char*)(acc + {i})"),
                        dtype: DType::F32,
                        stride: 0,
                    }
                } else {
                    let operand = i + 1;
                    let view = &self.views[operand];
                    let [down, across] = view.strides[..] else {
                        return Err(format!("{view:?} is no matrix"));
                    };
                    let bytes = view.dtype.bytes() as i64;
                    let across = match view.shape[1].known() {
                        Some(1) => 0,
                        _ => across,
                    };
                    let address = match down {
                        0 => format!("args.p[{operand}]"),
                        _ => format!("args.p[{operand}] + (i64)m * {}", down * bytes),
                    };
                    Row {
                        address,
                        dtype: view.dtype,
                        stride: across,
                    }
                };
                rows.insert(*input, row);
            }
            let x = RowBody::new(self.product.body, rows, Team::Element).element(t, "n")?;
            let operand = self.views.len() - 1;
            let dtype = self.views[operand].dtype.name();
            t.line(format_args!(
                "store_{dtype}(args.p[{operand}], (i64)m * N + n, {x});"
            ));
            Ok(())
        })
    }

    fn source(
        &self,
        name: &'static str,
        text: Text,
        skeleton: &'static [&'static str],
        tile: (u64, u64),
    ) -> Source {
        let tasks = Tasks {
            rows: self.views[0].shape[0].clone(),
            rows_per_task: tile.0,
            columns: (self.product.columns as u64).div_ceil(tile.1),
        };
        Source {
            skeleton,
            ..Source::new(name, self.views.len(), text.finish(), tasks, 256)
        }
    }

    /// At most `rows` rows, weights in rows.
    fn few_rows(&self, dtype: DType, rows: i64) -> Result<Source, String> {
        let mut t = self.text()?;
        let weights = self.product.weights as i64;
        let chunks = self.padded * dtype.bytes() as i64 / 16;
        let unroll = (chunks + 31) / 32;
        let unroll = unroll.min(4 / weights).max(1);
        let parts = (chunks + 32 * unroll - 1) / (32 * unroll);
        let pass = (SUMS / (4 * parts * weights * rows)).clamp(1, 1024);
        let staged = rows * self.padded * 4 <= STAGED;
        let threads: i64 = if rows == 1 { 1024 } else { 512 };
        t.constant("ROWS", rows);
        t.constant("UNROLL", unroll);
        t.constant("PARTS", parts);
        t.constant("PASS", pass);
        t.constant("THREADS", threads);
        t.line(format_args!("constexpr bool STAGED = {staged};"));
        if staged {
            self.stage(&mut t, threads, rows)?;
        }
        let shared = pass * parts * weights * rows + if staged { rows * self.padded } else { 0 };
        // Blocks are dealt runs of columns: as many as there are warps' loads to give, at most one or two a
        // multiprocessor.
        let units = self.product.columns * parts;
        let blocks = (units * 32 / threads).clamp(1, self.product.columns.max(1));
        let mut source = self.source("gemv", t, &[include_str!("kernels/gemv.cu")], (u64::MAX, 1));
        source.tasks.columns = blocks as u64;
        Ok(Source {
            rows: rows as u64,
            threads: threads as u32,
            shared: 4 * shared as u32,
            resident: if rows == 1 { 1 } else { 2 },
            ..source
        })
    }

    /// At most `rows` rows, weights in cells.
    fn stream(&self, cell: Cell, rows: i64) -> Result<Source, String> {
        const THREADS: i64 = 512;
        const WARPS: i64 = THREADS / 32;
        /// Bytes that a warp has on their way.
        const AHEAD: i64 = 8 << 10;
        let mut t = self.text()?;
        let (weights, lines) = (self.product.weights as i64, rows * TERMS);
        let (tiles, cells) = (
            (self.product.columns as usize).div_ceil(TILE) as i64,
            self.padded / cell.depth as i64,
        );
        // Columns in so many parts that warps end together; a part costs about a cell more.
        let units = (tiles + MULTIPROCESSORS - 1) / MULTIPROCESSORS * weights;
        let turns = |parts: &i64| (units * parts + WARPS - 1) / WARPS * (cells / parts + 1);
        let divides = |parts: &i64| cells % parts == 0;
        let parts = (1..=cells).filter(divides).min_by_key(turns).unwrap_or(1);
        let unit = 4 * lines * TILE as i64;
        let pass = (SUMS / (unit * parts * weights)).clamp(1, (units / weights).max(1));
        let sums = pass * parts * weights * unit;
        let terms = 2 * lines * (self.padded + 32);
        // The ring gets what is left, and is as short as can be where not all of a row fits beside it.
        let least = 2 * WARPS * cell.bytes() as i64;
        let staged = least + sums + terms <= self.shared;
        let left = self.shared - sums - if staged { terms } else { 0 };
        let stages = (AHEAD / cell.codes as i64).min(left / (WARPS * cell.bytes() as i64));
        let ring = WARPS * stages * cell.bytes() as i64;
        t.constant("ROWS", rows);
        t.constant("PARTS", parts);
        t.constant("PASS", pass);
        t.constant("THREADS", THREADS);
        t.constant("STAGES", stages);
        t.constant("TERMS", TERMS);
        t.line(format_args!("constexpr bool STAGED = {staged};"));
        match staged {
            true => self.stage(&mut t, THREADS, rows)?,
            false if rows == 1 && self.product.inlined.is_some() => {
                return Err(format!(
                    "a row of {} does not fit in shared memory",
                    self.depth
                ));
            }
            false => t.line("INLINE void stage(const Args& args, float* staged, int m) {}"),
        }
        let skeleton = &[
            include_str!("kernels/cells.cu"),
            include_str!("kernels/stream.cu"),
        ];
        let mut source = self.source("stream", t, skeleton, (u64::MAX, TILE as u64));
        let shared = ring + sums + if staged { terms } else { 0 };
        source.tasks.columns = source.tasks.columns.max(1);
        Ok(Source {
            rows: rows as u64,
            threads: THREADS as u32,
            shared: shared as u32,
            resident: 1,
            ..source
        })
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

    /// Tiles of `side` rows by as many columns, of all weights together, for `wm` times `wn` warps.
    fn tensor(&self, cell: Cell, side: i64, wm: i64, wn: i64, rows: u64) -> Result<Source, String> {
        const STAGES: i64 = 3;
        let mut t = self.text()?;
        let weights = self.product.weights as i64;
        let columns = self.tile_columns(side, wn);
        t.constant("TERMS", TERMS);
        t.constant("TM", side);
        t.constant("TN", columns);
        t.constant("WM", wm);
        t.constant("WN", wn);
        t.constant("STAGES", STAGES);
        let tiles = columns / TILE as i64;
        let shared = 2 * TERMS * side * 64 + STAGES * weights * tiles * cell.bytes() as i64;
        let tile = (side as u64, columns as u64);
        let skeleton = &[
            include_str!("kernels/cells.cu"),
            include_str!("kernels/tensor.cu"),
        ];
        Ok(Source {
            rows,
            threads: 32 * (wm * wn) as u32,
            shared: shared as u32,
            ..self.source("tensor", t, skeleton, tile)
        })
    }

    fn exact(&self) -> Result<Source, String> {
        let text = self.text()?;
        let skeleton = &[include_str!("kernels/exact.cu")];
        Ok(self.source("exact", text, skeleton, (64, 64)))
    }
}
