//! The analytic cost model: what is known of a kind of machine without measuring it.

use super::CostModel;
use ir::{Target, artifact::Work};

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
    /// A desktop processor: 0.4 µs a kernel (a region of its threads, which spin meanwhile), 40 GB/s, 500 Gflop/s.
    fn default() -> Roofline {
        Roofline {
            boundary: 400_000,
            bytes_per_ns: 40,
            flops_per_ns: 500,
        }
    }
}

impl CostModel for Roofline {
    fn kernel(&self, work: &Work) -> u64 {
        let time = |amount: u64, rate: u64| amount.saturating_mul(1000) / rate.max(1);
        let (memory, compute) = (
            time(work.bytes(), self.bytes_per_ns),
            time(work.operations(), self.flops_per_ns),
        );
        self.boundary.saturating_add(memory.max(compute))
    }
}
