//! The Gemm template: for few rows at the speed of memory, for many on the tensor cores or, where those would round the
//! weights, in f32. Here is what the three skeletons are given: constants, the input, the body.

use super::{
    rows::{Row, RowBody, Team},
    source::Source,
    text::{self, Text},
};
use crate::schedule::View;
use ir::{DType, Graph, Name, abi::cuda::DEPTH, artifact::Tasks};
use std::collections::HashMap;

/// Bytes of shared memory that rows of x may take beside the partial sums.
const STAGED: i64 = 64 << 10;
/// Bytes of shared memory for partial sums.
const SUMS: i64 = 32 << 10;

/// What every variant of a kernel shares.
struct Gemm<'a> {
    body: &'a Graph,
    weights: usize,
    columns: i64,
    codec: DType,
    views: &'a [View],
    symbols: &'a [Name],
    depth: i64,
    /// Elements of a row of the packed weights.
    padded: i64,
}

/// The kernel's sources.
pub fn emit(
    body: &Graph,
    weights: usize,
    columns: i64,
    codec: DType,
    views: &[View],
    symbols: &[Name],
) -> Result<Vec<Source>, String> {
    let x = &views[0];
    if x.dtype != DType::F32 {
        return Err(format!("reads rows of {}", x.dtype));
    }
    let depth = x.shape[1].known().ok_or("symbolic inner axis")?;
    let gemm = Gemm {
        body,
        weights,
        columns,
        codec,
        views,
        symbols,
        depth,
        padded: (depth.max(1) as usize).next_multiple_of(DEPTH) as i64,
    };
    let mut sources = vec![];
    for rows in [1, 4, 8] {
        sources.push(gemm.few_rows(rows)?);
    }
    if codec == DType::BF16 {
        sources.push(gemm.tensor(64, 2, 2, 64)?);
        sources.push(gemm.tensor(128, 2, 4, u64::MAX)?);
    } else {
        sources.push(gemm.exact()?);
    }
    Ok(sources)
}

impl Gemm<'_> {
    /// Constants and functions that every skeleton reads.
    fn text(&self) -> Result<Text, String> {
        let mut t = Text::default();
        let codec = match self.codec {
            DType::F32 => "F32",
            DType::BF16 => "BF16",
            DType::F16 => "F16",
            other => return Err(format!("weights of {other}")),
        };
        let (x, stride) = (&self.views[0], self.views[0].strides[0]);
        t.line(format_args!("using Codec = {codec};"));
        t.constant("K", self.depth);
        t.constant("KP", self.padded);
        t.constant("N", self.columns);
        t.constant("WEIGHTS", self.weights);
        let rows = text::dim(&x.shape[0], self.symbols)?;
        t.line(format_args!(
            "INLINE int rows(const Args& args) {{ return {rows}; }}"
        ));
        t.line("INLINE const char* weight(const Args& args, int w) { return args.p[1 + w]; }");
        self.input4(&mut t, stride);
        self.finish(&mut t)?;
        Ok(t)
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
            for (i, input) in self.body.inputs().iter().enumerate() {
                let row = if i < self.weights {
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
            let x = RowBody::new(self.body, rows, Team::Element).element(t, "n")?;
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
            columns: (self.columns as u64).div_ceil(tile.1),
        };
        Source {
            skeleton,
            ..Source::new(name, self.views.len(), text.finish(), tasks, 256)
        }
    }

    /// At most `rows` rows.
    fn few_rows(&self, rows: i64) -> Result<Source, String> {
        let mut t = self.text()?;
        let weights = self.weights as i64;
        let chunks = self.padded * self.codec.bytes() as i64 / 16;
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
        let shared = pass * parts * weights * rows + if staged { rows * self.padded } else { 0 };
        // Blocks are dealt runs of columns: as many as there are warps' loads to give, at most one or two a
        // multiprocessor.
        let units = self.columns * parts;
        let blocks = (units * 32 / threads).clamp(1, self.columns.max(1));
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

    /// Tiles of `side` rows by as many columns, of all weights together, for `wm` times `wn` warps.
    fn tensor(&self, side: i64, wm: i64, wn: i64, rows: u64) -> Result<Source, String> {
        const STAGES: i64 = 4;
        const TERMS: i64 = 3;
        let mut t = self.text()?;
        let weights = self.weights as i64;
        let columns = (side / weights).max(16 * wn);
        t.constant("TM", side);
        t.constant("TN", columns);
        t.constant("WM", wm);
        t.constant("WN", wn);
        t.constant("STAGES", STAGES);
        t.constant("TERMS", TERMS);
        let pitch = 2 * (DEPTH as i64 + 8);
        let shared = pitch * (2 * TERMS * side + STAGES * weights * columns);
        let tile = (side as u64, columns as u64);
        Ok(Source {
            rows,
            threads: 32 * (wm * wn) as u32,
            shared: shared as u32,
            ..self.source("tensor", t, &[include_str!("kernels/tensor.cu")], tile)
        })
    }

    fn exact(&self) -> Result<Source, String> {
        let text = self.text()?;
        let skeleton = &[include_str!("kernels/exact.cu")];
        Ok(self.source("exact", text, skeleton, (64, 64)))
    }
}
