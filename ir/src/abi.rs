//! The kernel ABI: what generated code and the runtime that calls it must agree on, byte for byte.
//!
//! A generated kernel is `extern "C" fn(args, env, begin, end)` ([`KernelFn`]). `args` holds one absolute pointer
//! per operand, resolved once when a session is made; `env` holds what differs between steps and threads. A kernel
//! covers tasks `begin..end` of its launch; tasks are independent, so any split over threads gives the same bits.
//!
//! Generated code reaches hand-written register tiles through [`KernelTable`], by offset; adding a field at the end
//! is safe for code that was generated before, but code that calls it needs the new runtime: both bump [`ABI_VERSION`].
//!
//! This file knows neither who generates nor who implements the functions.

use crate::{DType, Element};
use serde::{Deserialize, Serialize};

/// Version of everything in this file; stored in each artifact and checked before its code is mapped.
pub const ABI_VERSION: u32 = 10;

/// Columns of a packed weight panel. A weight `[K, N]` is stored as `ceil(N / PANEL)` panels, the last one padded with
/// zeros; [`Codec::panel`] says how they lie.
pub const PANEL: usize = 16;

/// How the elements of a matrix are stored where kernels read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Codec {
    /// Each element by itself.
    Plain(DType),
    /// Codes that share a scale with the others of their group; see [`Codec::panel`] and [`Codec::row`].
    Grouped {
        /// What they are.
        element: Element,
        /// Consecutive elements of a sum (of a row `[.., K]`, of a column `[K, ..]`) that share a scale: a multiple of
        /// 32 that divides `K`.
        group: u32,
    },
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Codec::Plain(dtype) => write!(f, "{dtype}"),
            Codec::Grouped { element, group } => write!(f, "{element}/{group}"),
        }
    }
}

impl Codec {
    /// Bytes that a panel of `k` rows and [`PANEL`] columns of weights takes.
    ///
    /// Panels lie in strips of [`Codec::strip`], so that a product reads one stream. A plain strip is
    /// `[K][panels of the strip][PANEL]`, of bf16 `[ceil(K / 2)][panels of the strip][PANEL][2]`: [pairs](Codec::depth) of rows,
    /// the last one padded with zeros. The last strip may have fewer panels. Grouped strips are whole, missing panels are
    /// there, too; such a strip holds its groups one after another, and a group
    ///
    /// * `[STRIP][PANEL]` scales, f16;
    /// * where the element has zero points `[STRIP][PANEL]` of them, a byte each, plus [`Element::excess`];
    /// * for each 32 rows as many lines as a code takes bits ([`Element::width`]); a line is 64 bytes for each panel of the strip.
    ///
    /// Codes, plus the excess, are cut into planes: 8 bits, 4, 2 or 1, the widest for the lowest bits, so that 16 are 8 and 8, and
    /// 3 are 2 and 1. A plane of `w` bits takes `w` lines, one plane after another. A line of it holds `32 / w` rows: in byte
    /// `4 * j + b` those of column `j` that are row `b` of each four, the first four in the lowest `w` bits.
    ///
    /// Padded columns have scale zero.
    pub fn panel(self, k: usize) -> usize {
        match self {
            Codec::Plain(dtype) => k.next_multiple_of(self.depth()) * PANEL * dtype.bytes(),
            Codec::Grouped { element, group } => {
                k * PANEL * element.width() / 8 + k / group as usize * PANEL * element.shared()
            }
        }
    }

    /// Rows of a plain panel whose elements in a column are neighbours: as many as an instruction multiplies at once.
    pub const fn depth(self) -> usize {
        match self {
            Codec::Plain(DType::BF16) => 2,
            _ => 1,
        }
    }

    /// Panels of a strip.
    pub const fn strip(self) -> usize {
        match self {
            // A row of a panel is a whole line, and tiles of many rows read one or two panels again and again: those of a
            // strip of four would meet in a part of the first-level cache.
            Codec::Plain(DType::F32) => 1,
            _ => STRIP,
        }
    }

    /// Panels that a weight of `n` columns takes.
    pub fn panels(self, n: usize) -> usize {
        match self {
            Codec::Plain(_) => n.div_ceil(PANEL),
            Codec::Grouped { .. } => n.div_ceil(PANEL).next_multiple_of(STRIP),
        }
    }

    /// Bytes of a row of `k` activations, at a multiple of which the next one starts.
    ///
    /// Grouped rows (integers of 8 or 16 bits) hold `k` codes as i8 or i16, padding to 64 bytes, `[K / group]` scales as f32,
    /// `[K / group]` sums of the codes of a group as i32, padding to 64 bytes. An activation is code times scale. Codes of 16
    /// bits lie so that of each four the first and third, the second and fourth are neighbours.
    pub fn row(self, k: usize) -> usize {
        match self {
            Codec::Plain(dtype) => k * dtype.bytes(),
            Codec::Grouped { element, group } => {
                let codes = k * element.storage().bytes();
                codes.next_multiple_of(64) + (k / group as usize * 8).next_multiple_of(64)
            }
        }
    }

    /// Whether products of weights stored so sum the codes of rows that are stored as `rows`: both in the same groups.
    pub fn meets(self, rows: Codec) -> bool {
        match (self.grouped(), rows.grouped()) {
            (Some((weights, group)), Some((rows, other))) => {
                group == other && weights.meets(rows, group)
            }
            _ => false,
        }
    }

    /// The element and the size of a group, where there are groups.
    pub fn grouped(self) -> Option<(Element, u32)> {
        match self {
            Codec::Plain(_) => None,
            Codec::Grouped { element, group } => Some((element, group)),
        }
    }
}

/// Panels of a strip of weights narrower than f32; see [`Codec::panel`].
pub const STRIP: usize = 4;

/// Rows of a block of a state that attention reads; see [`Layout`].
pub const BLOCK: usize = 128;

/// How a state `[R, G, D]` lies in memory. Attention reads keys and values where they are, so they are kept as its
/// register tiles want them: in blocks of [`BLOCK`] rows, head after head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// Row-major.
    #[default]
    Rows,
    /// A head of a block is `[BLOCK / PANEL][D][PANEL]`: rows side by side, as columns of a packed weight.
    Keys,
    /// A head of a block is `[BLOCK][D]`.
    Values,
    /// As [`Layout::Keys`], of codes (i8); behind those of a head of a block the scales of its rows, f32 `[BLOCK]`. An
    /// element is code times scale.
    KeyCodes,
    /// The same, codes as [`Layout::Values`].
    ValueCodes,
}

impl Layout {
    /// Whether elements are codes with scales.
    pub fn coded(self) -> bool {
        matches!(self, Layout::KeyCodes | Layout::ValueCodes)
    }

    /// The same order, of codes.
    #[must_use]
    pub fn as_codes(self) -> Layout {
        match self {
            Layout::Keys => Layout::KeyCodes,
            Layout::Values => Layout::ValueCodes,
            other => other,
        }
    }

    /// Rows that memory for `rows` rows has: whole blocks.
    pub fn rows(self, rows: usize) -> usize {
        match self {
            Layout::Rows => rows,
            _ => rows.next_multiple_of(BLOCK),
        }
    }

    /// Elements of `dim` numbers of a row and head: of codes, bytes, and scales are among them.
    pub const fn width(self, dim: usize) -> usize {
        match self {
            Layout::KeyCodes | Layout::ValueCodes => dim + size_of::<f32>(),
            _ => dim,
        }
    }

    /// Where element `[row, head, d]` of a state of `heads` heads of `dim` elements lies, in elements.
    pub fn index(self, [heads, dim]: [usize; 2], [row, head, d]: [usize; 3]) -> usize {
        let (block, within) = (row / BLOCK, row % BLOCK);
        let start = (block * heads + head) * BLOCK * self.width(dim);
        match self {
            Layout::Rows => (row * heads + head) * dim + d,
            Layout::Keys | Layout::KeyCodes => {
                start + (within / PANEL * dim + d) * PANEL + within % PANEL
            }
            Layout::Values | Layout::ValueCodes => start + within * dim + d,
        }
    }

    /// Where the scale of `[row, head]` lies, in bytes, where elements are codes.
    pub fn scale(self, [heads, dim]: [usize; 2], [row, head]: [usize; 2]) -> usize {
        let (block, within) = (row / BLOCK, row % BLOCK);
        let start = (block * heads + head) * BLOCK * self.width(dim);
        start + BLOCK * dim + within * size_of::<f32>()
    }
}

/// Bytes of scratch memory each thread offers in [`Env::scratch`], 64-byte aligned.
pub const SCRATCH_BYTES: usize = 1 << 20;

/// Entry point of a generated kernel. `args[i]` is operand `i`'s base address.
pub type KernelFn =
    unsafe extern "C" fn(args: *const *mut u8, env: *const Env, begin: u64, end: u64);

/// What a kernel may read besides its operands. One per thread; `dims` and `table` are shared.
#[repr(C)]
#[derive(Debug)]
pub struct Env {
    /// The function table.
    pub table: *const KernelTable,
    /// Values of the program's symbols in this step, in declaration order.
    pub dims: *const i64,
    /// [`SCRATCH_BYTES`] of memory private to the calling thread.
    pub scratch: *mut u8,
}

/// `c[0..m, 0..panels * PANEL] = a[0..m, 0..k] * b`, f32 accumulation.
///
/// * `a`: rows of f32, or of what the function says, `lda` elements apart; `c`: f32 rows, `ldc` elements apart; both aligned
///   to their elements.
/// * `b`: `panels` consecutive packed panels from the first of a strip ([`Codec::panel`]), 64-byte aligned; either whole
///   strips or all that the weight has from there.
/// * `m` is any number from 1, `panels` from 1, `k` from 0 (then `c` is zeroed).
///
/// **Every implementation produces the same bits:** each `c[i, j]` is one chain of fused multiply-adds over
/// `k = 0, 1, ...` from `0.0`, whatever `m`, `panels`, the instruction set or the thread.
pub type GemmFn = unsafe extern "C" fn(
    m: usize,
    k: usize,
    a: *const u8,
    lda: usize,
    b: *const u8,
    panels: usize,
    c: *mut f32,
    ldc: usize,
);

/// `c[0..m, 0..panels * PANEL] = a[0..m, 0..k] * b` with weights in [`Codec::Grouped`] panels.
///
/// * `b`: the first panel of a strip; `group`: as in the codec; `a`: rows `lda` **bytes** apart, f32 or [`Codec::row`]s of the same group; `c` as in [`GemmFn`].
/// * With f32 rows the result has the bits of [`GemmFn`] over what the codes stand for, rounded to f32 ([`Element`]).
/// * With integer rows, which the weights must [meet](Element::meets), `c[i, j]` is a chain of `fma(g, scale_a * scale_b, c)` over the groups from `0.0`, where `g` is the
///   exact sum of the group's products of codes, rounded to f32.
///
/// **Every implementation produces the same bits.**
pub type GroupedGemmFn = unsafe extern "C" fn(
    m: usize,
    k: usize,
    group: usize,
    a: *const u8,
    lda: usize,
    b: *const u8,
    panels: usize,
    c: *mut f32,
    ldc: usize,
);

/// Stores `k` activations at `x` as a [`Codec::row`] of 8 (or 16) bits at `to`, 64-byte aligned: per group the scale is
/// `max |x| / 127` (or 32767), a code `x * (127 / max |x|)` rounded to the nearest integer, ties to even; all zero where the
/// maximum is.
pub type QuantizeFn = unsafe extern "C" fn(k: usize, group: usize, x: *const f32, to: *mut u8);

/// What [`QuantizeFn`]'s codes stand for, `scale * code` rounded to f32, with codes of `bits` bits: up to `2^(bits - 1) - 1`.
pub type FakeQuantizeFn =
    unsafe extern "C" fn(bits: usize, k: usize, group: usize, x: *const f32, to: *mut f32);

/// Stores `n` elements at `x` as codes of one group of [`QuantizeFn`], `step` bytes apart from `to` on, and their scale at
/// `scale`: a row of a head in [`Layout::KeyCodes`] or [`Layout::ValueCodes`].
pub type QuantizeHeadFn =
    unsafe extern "C" fn(n: usize, x: *const f32, to: *mut u8, step: usize, scale: *mut f32);

/// Replaces each `block` of the `n` elements at `x` by its product with the orthonormal Hadamard matrix
/// ([`crate::ops::Hadamard`]): sums and differences of elements 1, 2, 4, .. apart, then products with `1 / sqrt(block)`, all in
/// f32, with the same bits in every implementation. `block` is a power of two, at least 2, that divides `n`.
pub type HadamardFn = unsafe extern "C" fn(n: usize, block: usize, x: *mut f32);

/// Arguments of one attention call: `tokens` rows of queries, all `group` query heads of one key/value head.
///
/// For row `t` and head `h` of the group: `out[t, h] = softmax_j(softcap(scale * q[t, h] . k[j])) v[j]` over
/// `j` in `lo[t]..hi[t]`. An empty interval gives zeros. The result for a row depends on that row alone
/// (bit for bit), not on `tokens`; where keys lie in blocks it also depends on `lo[t] % BLOCK`. Keys and values narrower
/// than f32 give the bits of the f32 numbers that they widen to. Codes ([`Layout::KeyCodes`]) are widened, too: their scales
/// multiply scores (before `softcap`) and the weights that values meet, so that each is applied once.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AttentionArgs {
    /// First query: head `h` of row `t` at `q + t * q_stride + h * head_dim` (f32 elements).
    pub q: *const f32,
    /// Elements between query rows.
    pub q_stride: usize,
    /// Keys of this key/value head, of the function's element type: row `j` at `k + j * kv_stride`, or in blocks.
    pub k: *const u8,
    /// Values of this key/value head: row `j` at `v + j * kv_stride`, or in blocks.
    pub v: *const u8,
    /// Elements between key (and value) rows; not read where they lie in blocks.
    pub kv_stride: usize,
    /// Elements between blocks of keys that lie as [`Layout::Keys`] and of values that lie as [`Layout::Values`], or codes of them; 0
    /// where both lie in rows. Blocks must be there whole: keys of rows beyond an interval are read, and ignored.
    pub block_stride: usize,
    /// Output, addressed like `q` with `out_stride`.
    pub out: *mut f32,
    /// Elements between output rows.
    pub out_stride: usize,
    /// First key row each query row attends to, i32.
    pub lo: *const i32,
    /// One past the last key row each query row attends to, i32.
    pub hi: *const i32,
    /// Query rows.
    pub tokens: usize,
    /// Query heads that share this key/value head.
    pub group: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)` where positive; no cap where zero.
    pub softcap: f32,
}

/// See [`AttentionArgs`].
pub type AttentionFn = unsafe extern "C" fn(args: *const AttentionArgs);

/// A scalar function that generated code calls where Cranelift has no instruction for it.
pub type ScalarFn = extern "C" fn(f32) -> f32;

/// `x[0..n] = f(x[0..n])`, with the same bits in every implementation and whatever `n`.
pub type ElementsFn = unsafe extern "C" fn(n: usize, x: *mut f32);

/// Products with weights of one element, by how the rows are stored.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GroupedGemms {
    /// Rows of f32.
    pub f32: GroupedGemmFn,
    /// Rows of 8 bits, where the element [meets](Element::meets) those.
    pub q8: Option<GroupedGemmFn>,
    /// Rows of 16 bits, the same.
    pub q16: Option<GroupedGemmFn>,
}

/// The versioned function table. Generated code loads function pointers from it at these offsets.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct KernelTable {
    /// [`ABI_VERSION`].
    pub version: u64,
    /// Gemm over f32 panels.
    pub gemm_f32: GemmFn,
    /// Gemm over bf16 panels, widened exactly.
    pub gemm_bf16: GemmFn,
    /// Gemm over f16 panels, widened exactly.
    pub gemm_f16: GemmFn,
    /// Attention over f32 keys and values.
    pub attention_f32: AttentionFn,
    /// Cosine, radians.
    pub cos: ScalarFn,
    /// Sine, radians.
    pub sin: ScalarFn,
    /// Gemm with weights of each of [`Element::ALL`].
    pub grouped: [GroupedGemms; Element::ALL.len()],
    /// Rows of 8 bits from f32.
    pub quantize_q8: QuantizeFn,
    /// Rows of 16 bits from f32.
    pub quantize_q16: QuantizeFn,
    /// Values that few bits can say.
    pub fake_quantize: FakeQuantizeFn,
    /// `e^x`.
    pub exp: ElementsFn,
    /// Hyperbolic tangent.
    pub tanh: ElementsFn,
    /// The error function.
    pub erf: ElementsFn,
    /// Attention over bf16 keys and values, widened exactly.
    pub attention_bf16: AttentionFn,
    /// Attention over f16 keys and values, widened exactly.
    pub attention_f16: AttentionFn,
    /// Attention over codes with scales, in blocks.
    pub attention_q8: AttentionFn,
    /// A row of a head as codes.
    pub quantize_head: QuantizeHeadFn,
    /// Gemm of rows of bf16 over bf16 panels. Chains are over `k = 1, 0, 3, 2, ...`, as instructions for pairs take them, and
    /// elements, products and sums below `2^-126` may count as zero.
    pub gemm_bf16_rows: GemmFn,
    /// Rotation of blocks of a row.
    pub hadamard: HadamardFn,
}

/// What generated GPU code and the runtime that launches it must agree on.
///
/// Each variant of a kernel is a cubin of its own in the artifact's code, with one entry, [`ENTRY`](cuda::ENTRY). It
/// takes one structure by value: the operands' addresses (64 bits each), the address of the symbols' values (`i64`
/// each, in the plan's order), of counters (`u32`, one for each task, zero before and after a launch), of scratch
/// memory, and of the step's inputs, which end where the symbols' values begin; behind it, at a multiple of 64 bytes, the maps
/// of what is copied in tiles ([`TensorMap`](crate::artifact::TensorMap), 128 bytes each), if anything is. A block
/// runs task `blockIdx.x`, or where [`Workers`](crate::artifact::Workers) limits the blocks, as many as fall to it.
pub mod cuda {
    /// Name of each kernel's entry point.
    pub const ENTRY: &str = "kernel";

    use super::Codec;
    use crate::{DType, Element};

    /// A weight `[K, N]` of f32 or f16 is stored as `N` rows of `K` elements, each padded with zeros to a multiple of so
    /// many. One of bf16 or of few bits lies in cells, see [`Cell`].
    pub const DEPTH: usize = 32;

    /// Columns of a weight that a [`Cell`] holds.
    pub const TILE: usize = 8;

    /// What tensor cores take at once of a weight `[K, N]`: [`TILE`] columns by `depth` rows, as its registers hold them.
    /// The weight is `ceil(N / TILE)` tiles of `ceil(K / depth)` cells, padded with zeros.
    ///
    /// A cell holds codes, then scales. Codes of bf16 are matrices of 8 by 8, eight rows of a column beside each other: for each
    /// eight rows in turn, column after column, what `ldmatrix` and `wgmma` read. Codes of few bits are read by lane `4 * j + t` of
    /// a warp, 16 bytes at 16 times its number: of column `j`, for each `h` in turn, the rows `32 * h + 8 * i + 2 * t + e`, where `i` is
    /// below 4 and `e` below 2, in the order of `2 * i + e`. As words of 32 bits,
    ///
    /// * 8 bits, two's complement or floats: bytes hold numbers 0, 2, 1, 3 of each four;
    /// * 4 bits, plus 8: halves of bytes hold numbers 0, 2, 4, 6, 1, 3, 5, 7, the lowest first.
    ///
    /// Scales are f16, `[TILE / 2][groups][2]`: of columns `2 * t` and `2 * t + 1`, for each group that the cell meets.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cell {
        /// Rows.
        pub depth: usize,
        /// Bytes of codes.
        pub codes: usize,
        /// Groups that it meets; 0 where elements stand for themselves.
        pub groups: usize,
    }

    impl Cell {
        /// That of weights stored so; `None` for those that lie in rows, and for elements that GPUs have no kernels for.
        pub fn of(codec: Codec) -> Option<Cell> {
            match codec {
                Codec::Plain(DType::BF16) => Some(Cell {
                    depth: 64,
                    codes: 1024,
                    groups: 0,
                }),
                Codec::Plain(_) => None,
                Codec::Grouped { element, group } => {
                    let depth = match element {
                        Element::Q8 | Element::Q7 | Element::E4M3 => 64,
                        Element::Q4 => 128,
                        _ => return None,
                    };
                    Some(Cell {
                        depth,
                        codes: 512,
                        groups: depth.div_ceil(group as usize),
                    })
                }
            }
        }

        /// Bytes.
        pub fn bytes(self) -> usize {
            self.codes + self.groups * TILE * 2
        }
    }
}
