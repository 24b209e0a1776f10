//! The kernel ABI: what generated code and the runtime that calls it must agree on, byte for byte.
//!
//! A generated kernel is `extern "C" fn(args, env, begin, end)` ([`KernelFn`]). `args` holds one absolute pointer
//! per operand, resolved once when a session is made; `env` holds what differs between steps and threads. A kernel
//! covers tasks `begin..end` of its launch; tasks are independent, so any split over threads gives the same bits.
//!
//! Generated code reaches hand-written register tiles through [`KernelTable`], by offset; adding a field at the end
//! is compatible, anything else bumps [`ABI_VERSION`].
//!
//! This file knows neither who generates nor who implements the functions.

/// Version of everything in this file; stored in each artifact and checked before its code is mapped.
pub const ABI_VERSION: u32 = 1;

/// Columns of a packed weight panel. A weight `[K, N]` is stored as `ceil(N / PANEL)` panels, each `[K][PANEL]`
/// (column `p * PANEL + j` of row `k` at index `(p * K + k) * PANEL + j`), the last one padded with zeros.
pub const PANEL: usize = 16;

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
/// * `a`: f32 rows, `lda` elements apart; `c`: f32 rows, `ldc` elements apart; both unaligned.
/// * `b`: `panels` consecutive packed panels, each `k * PANEL` elements of the codec's dtype, 64-byte aligned.
/// * `m` is any number from 1, `panels` from 1, `k` from 0 (then `c` is zeroed).
///
/// **Every implementation produces the same bits:** each `c[i, j]` is one chain of fused multiply-adds over
/// `k = 0, 1, ...` from `0.0`, whatever `m`, `panels`, the instruction set or the thread.
pub type GemmFn = unsafe extern "C" fn(
    m: usize,
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const u8,
    panels: usize,
    c: *mut f32,
    ldc: usize,
);

/// Arguments of one attention call: `tokens` rows of queries, all `group` query heads of one key/value head.
///
/// For row `t` and head `h` of the group: `out[t, h] = softmax_j(softcap(scale * q[t, h] . k[j])) v[j]` over
/// `j` in `lo[t]..hi[t]`. An empty interval gives zeros. The result for a row depends on that row alone
/// (bit for bit), not on `tokens`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AttentionArgs {
    /// First query: head `h` of row `t` at `q + t * q_stride + h * head_dim` (f32 elements).
    pub q: *const f32,
    /// Elements between query rows.
    pub q_stride: usize,
    /// Keys of this key/value head: row `j` at `k + j * kv_stride`.
    pub k: *const f32,
    /// Values of this key/value head: row `j` at `v + j * kv_stride`.
    pub v: *const f32,
    /// Elements between key (and value) rows.
    pub kv_stride: usize,
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
}
