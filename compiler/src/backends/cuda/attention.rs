//! The Attention template: constants for three skeletons: for a few tokens with many keys each, for many tokens, and for many tokens
//! where all is stored as bf16.

use super::{
    Chip,
    gemm::{REGISTERS, SHARED, wgmma},
    map,
    rows::Team,
    source::Source,
    text::{self, Text},
};
use crate::schedule::{Inlined, View};
use ir::{DType, Name, artifact::Tasks, ops};

/// Tokens up to which each is split over blocks.
const FEW: u64 = 16;
/// Blocks that a token's attention is split into, roughly: one for each multiprocessor.
const BLOCKS: i64 = 128;
/// Blocks of a cluster, on every architecture that has them.
const CLUSTER: i64 = 8;
/// Queries of a block that walks over keys in tiles.
const QUERIES: i64 = 64;
/// Blocks that keep a GPU busy.
const MANY: i64 = 512;
/// Elements of a head up to which tiles of them fit in shared memory.
const HEAD: i64 = 256;

/// The kernel's sources.
pub fn emit(
    op: &ops::Attention,
    inlined: &[Inlined],
    views: &[View],
    symbols: &[Name],
    chip: Chip,
) -> Result<Vec<Source>, String> {
    let [q, k, v, lo, hi, .., out] = views else {
        return Err("wants six operands".into());
    };
    let size = |view: &View, axis: usize| {
        view.shape[axis]
            .known()
            .ok_or_else(|| format!("symbolic axis {axis} of {view:?}"))
    };
    let attention = Attention {
        op,
        inlined,
        views,
        q,
        k,
        symbols,
        // Panels of 64 elements.
        warpgroup: chip.warpgroups && [64, 128].contains(&size(q, 2)?),
        heads: size(q, 1)?,
        groups: size(k, 1)?,
        dim: size(q, 2)?,
    };
    if k.strides[0] != v.strides[0] || lo.strides != [1] || hi.strides != [1] {
        return Err("keys and values lie differently".into());
    }
    if k.dtype != v.dtype || [q, k, out].iter().any(|v| !v.dtype.is_float()) {
        let types = [q, k, v, out].map(|v| v.dtype.to_string()).join(", ");
        return Err(format!("queries, keys, values and outputs are {types}"));
    }
    let group = attention.heads / attention.groups;
    let mut sources = vec![];
    if !inlined.is_empty() {
        sources.push(attention.split(1, true)?);
    }
    sources.push(attention.split(FEW, true)?);
    if attention.dim > HEAD || group > QUERIES {
        sources.push(attention.split(u64::MAX, false)?);
    } else if !attention.is_narrow() {
        sources.push(attention.flash()?);
    } else if attention.dim > 128 {
        sources.push(attention.narrow(QUERIES, u64::MAX)?);
    } else {
        // Twice the queries a block are worth it where there are blocks enough.
        let enough = (MANY * 2 * QUERIES / attention.heads) as u64;
        sources.push(attention.narrow(QUERIES, enough.max(FEW + 2) - 1)?);
        sources.push(attention.narrow(2 * QUERIES, u64::MAX)?);
    }
    Ok(sources)
}

/// Bf16 numbers whose sum is any number of the type.
fn terms(dtype: DType) -> i64 {
    match dtype {
        DType::BF16 => 1,
        DType::F16 => 2,
        _ => 3,
    }
}

struct Attention<'a> {
    op: &'a ops::Attention,
    inlined: &'a [Inlined],
    views: &'a [View],
    q: &'a View,
    k: &'a View,
    symbols: &'a [Name],
    /// Whether a warpgroup multiplies what is narrow.
    warpgroup: bool,
    heads: i64,
    groups: i64,
    dim: i64,
}

impl Attention<'_> {
    fn text(&self) -> Result<Text, String> {
        let mut t = Text::default();
        let out = self.views.len() - 1;
        t.constant("OUT", out);
        for (name, operand) in [("Query", 0), ("Row", 1), ("Output", out)] {
            let dtype = self.views[operand].dtype;
            t.line(format_args!("using {name} = Element_{dtype};"));
        }
        t.constant("HEADS", self.heads);
        t.constant("GROUPS", self.groups);
        t.constant("DIM", self.dim);
        t.constant("Q_PITCH", self.q.strides[0]);
        t.constant("KV_PITCH", self.k.strides[0]);
        for (name, x) in [("SCALE", self.op.scale), ("CAP", self.op.softcap)] {
            let x = text::float(x.get() as f32);
            t.line(format_args!("constexpr float {name} = {x};"));
        }
        let rows = text::dim(&self.q.shape[0], self.symbols)?;
        t.line(format_args!(
            "INLINE int rows(const Args& args) {{ return {rows}; }}"
        ));
        Ok(t)
    }

    /// Functions that compute the query, and the new rows of keys and values, of a step of one token.
    fn made(&self, t: &mut Text, rows: u64) -> Result<(), String> {
        let of = |operand: usize| {
            let mut inlined = self.inlined.iter().filter(|_| rows == 1);
            inlined.find(|i| i.operand == operand)
        };
        let [query, keys, values] = [of(0), of(1), of(2)];
        t.line(format_args!(
            "constexpr bool MAKES_QUERY = {};",
            query.is_some()
        ));
        t.line(format_args!(
            "constexpr bool MAKES_ROWS = {};",
            keys.is_some()
        ));
        let store = |t: &mut Text, column: &str, x: &str| {
            t.line(format_args!("store_f32((char*)to, {column}, {x});"));
        };
        for (name, inlined) in [("query", query), ("key", keys), ("value", values)] {
            let head =
                format!("INLINE void make_{name}(const Args& args, int head, int lane, float* to)");
            match inlined {
                Some(i) => {
                    map::function(
                        t,
                        &head,
                        i,
                        self.views,
                        &["0", "head"],
                        Team::Threads(32),
                        &store,
                    )?;
                }
                None => t.line(format_args!("{head} {{}}")),
            }
        }
        let (fresh, ids) = match keys {
            Some(keys) => map::scattered(keys, self.views, "0")?,
            None => ("-1".into(), self.views.len() - 1),
        };
        t.line(format_args!(
            "INLINE int fresh_row(const Args& args) {{ return {fresh}; }}"
        ));
        t.line(format_args!(
            "INLINE const char* fresh_rows(const Args& args) {{ return args.p[{ids}]; }}"
        ));
        Ok(())
    }

    /// A token's keys over several blocks, or one.
    fn split(&self, rows: u64, several: bool) -> Result<Source, String> {
        let group = self.heads / self.groups;
        let vector = if self.dim % 4 == 0 { 4 } else { 1 };
        // About 16 elements of a head to a thread.
        let lanes = (self.dim as u64).div_ceil(16).next_power_of_two().min(32) as i64;
        let width = (self.dim + lanes * vector - 1) / (lanes * vector) * vector;
        // Each warp leaves its part of each head in shared memory, of which there are 48 KB.
        let threads = if self.dim <= 1024 { 256 } else { 64 };
        let most = (64 / width)
            .min((40 << 10) / (threads / 8 * self.dim))
            .clamp(1, 4);
        // The most heads whose blocks, a cluster to each set of heads, are as many as multiprocessors; or the most.
        let divides = |n: &i64| group % n == 0;
        let clusters = |n: &i64| self.heads / n * CLUSTER >= BLOCKS;
        let counts = || (1..=most).rev().filter(divides);
        let together = counts().find(clusters).or(counts().next()).unwrap_or(1);
        let sets = self.heads / together;
        let splits = match several {
            true => (BLOCKS / sets).clamp(1, 64),
            false => 1,
        };
        let joined = (2..=CLUSTER).contains(&splits) && BLOCKS % splits == 0;
        let mut t = self.text()?;
        self.made(&mut t, rows)?;
        t.constant("TOGETHER", together);
        t.constant("SPLITS", splits);
        if joined {
            t.line("#if __CUDA_ARCH__ >= 900");
            t.line(format_args!(
                "#define CLUSTER __cluster_dims__({splits}, 1, 1)"
            ));
            t.line("constexpr bool JOINED = true;");
            t.line("#else");
        }
        t.line("#define CLUSTER");
        t.line("constexpr bool JOINED = false;");
        if joined {
            t.line("#endif");
        }
        t.constant("VECTOR", vector);
        t.constant("LANES", lanes);
        t.constant("THREADS", threads);
        let tasks = Tasks {
            rows: self.q.shape[0].clone(),
            rows_per_task: 1,
            columns: (sets * splits) as u64,
        };
        let scratch = match splits {
            1 => 0,
            _ => 4 * together * (self.dim + 2),
        };
        Ok(Source {
            rows,
            skeleton: &[
                include_str!("kernels/attention.cu"),
                include_str!("kernels/split.cu"),
            ],
            scratch: scratch as u64,
            ..Source::new("split", self.views.len(), t.finish(), tasks, threads as u32)
        })
    }

    /// Whether all that is multiplied is stored as bf16 and can be copied 16 bytes at a time, and larger products are larger scores.
    fn is_narrow(&self) -> bool {
        let whole = |view: &&View| view.dtype == DType::BF16 && view.strides[0] % 8 == 0;
        let grows = self.op.scale.get() > 0.0 || self.op.softcap.get() > 0.0;
        grows && self.dim % 8 == 0 && [self.q, self.k].iter().all(whole)
    }

    /// Blocks of so many queries, all stored as bf16.
    fn narrow(&self, queries: i64, rows: u64) -> Result<Source, String> {
        let keys = if self.dim <= 128 { 64 } else { 32 };
        let tokens = queries / (self.heads / self.groups);
        let mut t = self.text()?;
        t.constant("QUERIES", queries);
        t.constant("TOKENS", tokens);
        t.constant("KEYS", keys);
        let wide = (self.dim + 15) / 16 * 16;
        // Elements between rows, whether queries stay in registers, and threads.
        let (name, pitch, kept, threads, skeleton): (_, _, _, _, &[&str]) = if self.warpgroup {
            // There are no weights in cells.
            t.constant("CELL", 0);
            wgmma(&mut t, "wgmma_keys", keys, SHARED, false);
            wgmma(&mut t, "wgmma_values", self.dim, REGISTERS, true);
            let skeleton = &[
                include_str!("kernels/attention.cu"),
                include_str!("kernels/wgmma.cu"),
                include_str!("kernels/narrow_warpgroup.cu"),
                include_str!("kernels/narrow.cu"),
            ];
            ("warpgroup", wide, false, 2 * queries, skeleton)
        } else {
            let skeleton = &[
                include_str!("kernels/attention.cu"),
                include_str!("kernels/narrow_warps.cu"),
                include_str!("kernels/narrow.cu"),
            ];
            (
                "warps",
                wide + 8,
                queries / QUERIES * wide <= 128,
                128,
                skeleton,
            )
        };
        let tasks = Tasks {
            rows: self.q.shape[0].clone(),
            rows_per_task: tokens as u64,
            columns: self.groups as u64,
        };
        let rows_there = 4 * keys + if kept { 8 } else { queries };
        Ok(Source {
            rows,
            skeleton,
            shared: (2 * rows_there * pitch + 8 * tokens + threads / 2) as u32,
            ..Source::new(name, self.views.len(), t.finish(), tasks, threads as u32)
        })
    }

    fn flash(&self) -> Result<Source, String> {
        let [q_terms, kv_terms] = [self.q, self.k].map(|view| terms(view.dtype));
        let keys = match (self.dim, kv_terms) {
            (..=64, _) | (..=128, 1) => 64,
            (..=128, _) | (_, 1) => 32,
            _ => 16,
        };
        let (parts, pitch) = match self.dim {
            ..=128 => (1, (self.dim + 15) / 16 * 16 + 8),
            _ => (2, (self.dim + 31) / 32 * 32 + 8),
        };
        let tokens = QUERIES / (self.heads / self.groups);
        let mut t = self.text()?;
        // Where keys are copied as they are, a tile is on its way.
        let copied = kv_terms == 1 && self.dim % 8 == 0 && self.k.strides[0] % 8 == 0;
        let tiles = if copied { 2 } else { 1 };
        t.constant("TOKENS", tokens);
        t.constant("KEYS", keys);
        t.constant("Q_TERMS", q_terms);
        t.constant("KV_TERMS", kv_terms);
        let tasks = Tasks {
            rows: self.q.shape[0].clone(),
            rows_per_task: tokens as u64,
            columns: self.groups as u64,
        };
        Ok(Source {
            skeleton: &[
                include_str!("kernels/attention.cu"),
                include_str!("kernels/flash.cu"),
            ],
            shared: (2 * (q_terms * QUERIES + 2 * tiles * kv_terms * keys) * pitch + 8 * tokens)
                as u32,
            ..Source::new(
                "flash",
                self.views.len(),
                t.finish(),
                tasks,
                128 * parts as u32,
            )
        })
    }
}
