//! What a kernel costs. Integer picoseconds, so that sums do not depend on their order; knows work, not rewrites.

use ir::{Dim, Name, OpKind, Sym, Target};
use std::{collections::BTreeMap, fmt};

/// What a kernel does, whoever does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Read and written, each tensor once.
    pub bytes: u64,
    /// Floating-point operations; a transcendental function counts as ten.
    pub flops: u64,
}

impl Work {
    /// Both.
    #[must_use]
    pub fn and(self, o: Work) -> Work {
        Work {
            bytes: self.bytes.saturating_add(o.bytes),
            flops: self.flops.saturating_add(o.flops),
        }
    }
}

/// Picoseconds of kernels. Implementations are monotone: more work never costs less.
pub trait CostModel: fmt::Debug + Send + Sync {
    /// A kernel of a template (`map`, `gemm` or `attention`) doing that work, its start and end included.
    fn kernel(&self, kind: OpKind, work: Work) -> u64;
}

/// `boundary + max(bytes / bandwidth, flops / peak)`.
#[derive(Clone, Copy, Debug)]
pub struct Roofline {
    /// Picoseconds that a kernel costs even if it does nothing.
    pub boundary: u64,
    /// Bytes read or written in a nanosecond.
    pub bytes_per_ns: u64,
    /// Floating-point operations in a nanosecond.
    pub flops_per_ns: u64,
}

impl Roofline {
    /// What kernels cost on machines of the target's kind.
    pub fn of(target: &Target) -> Roofline {
        let known = MACHINES.iter().find(|(name, _)| target.has(name));
        known.map_or_else(Roofline::default, |(_, roofline)| *roofline)
    }
}

/// Machines that are not a desktop processor, by a feature of their targets: datasheets, but the boundary, which is a
/// kernel in a graph, and the H200's bandwidth, which was measured.
const MACHINES: &[(&str, Roofline)] = &[
    // A100: 1.9 TB/s, 19.5 Tflop/s.
    (
        "sm_80",
        Roofline {
            boundary: 2_000_000,
            bytes_per_ns: 1_700,
            flops_per_ns: 19_500,
        },
    ),
    // H200: 4.5 TB/s read, 67 Tflop/s in f32.
    (
        "sm_90a",
        Roofline {
            boundary: 2_000_000,
            bytes_per_ns: 4_500,
            flops_per_ns: 67_000,
        },
    ),
];

impl Default for Roofline {
    /// A desktop processor: 2 µs a kernel (a barrier of its threads), 40 GB/s, 500 Gflop/s.
    fn default() -> Roofline {
        Roofline {
            boundary: 2_000_000,
            bytes_per_ns: 40,
            flops_per_ns: 500,
        }
    }
}

impl CostModel for Roofline {
    fn kernel(&self, _: OpKind, work: Work) -> u64 {
        let time = |amount: u64, rate: u64| amount.saturating_mul(1000) / rate.max(1);
        let (memory, compute) = (
            time(work.bytes, self.bytes_per_ns),
            time(work.flops, self.flops_per_ns),
        );
        self.boundary.saturating_add(memory.max(compute))
    }
}

/// Sizes at which costs are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding(pub BTreeMap<Name, u32>);

impl Binding {
    /// Each symbol at its size.
    pub fn new<'a>(sizes: impl IntoIterator<Item = (&'a str, u32)>) -> Binding {
        Binding(sizes.into_iter().map(|(n, k)| (n.into(), k)).collect())
    }

    /// A symbol's size: as given, else 1; never above its maximum.
    pub fn at(&self, sym: &Sym) -> i64 {
        i64::from(self.0.get(&sym.name).copied().unwrap_or(1).min(sym.max))
    }

    /// A dim's size.
    pub fn size(&self, dim: &Dim) -> u64 {
        u64::try_from(dim.eval(&|s| self.at(s))).unwrap_or(0)
    }
}
