//! Few rows: weights are streamed, and read once. Rows lie in shared memory, or are computed there.

use super::{Gemm, MULTIPROCESSORS};
use crate::backends::cuda::{map, rows::Team, source::Source, text::Text};
use ir::{
    DType,
    abi::cuda::{Cell, TILE},
};

/// Bytes of shared memory that rows of x may take beside the partial sums.
const STAGED: i64 = 64 << 10;
/// Bytes of shared memory for partial sums.
const SUMS: i64 = 32 << 10;

impl Gemm<'_> {
    /// A row of x, put where the skeleton wants each element, if it lies in shared memory; beyond its end are zeros.
    fn stage(&self, t: &mut Text, threads: i64, rows: i64, staged: bool) -> Result<(), String> {
        let args = "const Args& args, float* staged, int m";
        let inlined = self.product.inlined.filter(|_| rows == 1);
        t.line(format_args!("constexpr bool STAGED = {staged};"));
        if !staged {
            // What is computed here has no other place.
            if inlined.is_some() {
                return Err(format!(
                    "a row of {} does not fit in shared memory",
                    self.depth
                ));
            }
            t.line(format_args!("INLINE void stage({args}) {{}}"));
            return Ok(());
        }
        t.line("INLINE void stage(float* staged, int m, int k, float x);");
        t.line("INLINE void stage(float* staged, int m, int k, const float (&four)[4]);");
        let head = format!("INLINE void compute_row({args}, int lane)");
        let team = Team::Threads(threads as u32);
        if let Some(inlined) = inlined {
            let store = |t: &mut Text, column: &str, x: &str| {
                t.line(format_args!("stage(staged, m, {column}, {x});"));
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
                    t.line("const float4 v = input4(args, m, 4 * i);");
                    t.line("const float x[4] = {v.x, v.y, v.z, v.w};");
                    if inlined.is_none() {
                        t.line("stage(staged, m, 4 * i, x);");
                        return;
                    }
                    for e in 0..4 {
                        t.line(format_args!(
                            "if (4 * i + {e} >= K) stage(staged, m, 4 * i + {e}, x[{e}]);"
                        ));
                    }
                },
            );
        });
        Ok(())
    }

    /// At most `rows` rows, weights in rows.
    pub(super) fn few_rows(&self, dtype: DType, rows: i64) -> Result<Source, String> {
        let mut t = self.text(1)?;
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
        self.stage(&mut t, threads, rows, staged)?;
        let shared = pass * parts * weights * rows + if staged { rows * self.padded } else { 0 };
        // Blocks are dealt runs of columns: as many as there are warps' loads to give, at most one or two a
        // multiprocessor.
        let units = self.product.columns * parts;
        let blocks = (units * 32 / threads).clamp(1, self.product.columns.max(1));
        let mut source = self.source(
            "gemv",
            t,
            &[include_str!("../kernels/gemv.cu")],
            (u64::MAX, 1),
        );
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
    pub(super) fn stream(&self, cell: Cell, rows: i64) -> Result<Source, String> {
        const THREADS: i64 = 512;
        const WARPS: i64 = THREADS / 32;
        /// Bytes that a warp has on their way.
        const AHEAD: i64 = 8 << 10;
        let mut t = self.text(1)?;
        let (weights, lines) = (self.product.weights as i64, rows * self.terms);
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
        let terms = 2 * lines * (self.padded + 8);
        // The ring gets what is left, and is as short as can be where not all of a row fits beside it.
        let least = 2 * WARPS * cell.bytes() as i64;
        let staged = least + sums + terms <= self.chip.shared;
        let left = self.chip.shared - sums - if staged { terms } else { 0 };
        let stages = (AHEAD / cell.codes as i64).min(left / (WARPS * cell.bytes() as i64));
        let ring = WARPS * stages * cell.bytes() as i64;
        t.constant("ROWS", rows);
        t.constant("PARTS", parts);
        t.constant("PASS", pass);
        t.constant("THREADS", THREADS);
        t.constant("STAGES", stages);
        self.stage(&mut t, THREADS, rows, staged)?;
        let skeleton = &[
            include_str!("../kernels/cells.cu"),
            include_str!("../kernels/stream.cu"),
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
}
