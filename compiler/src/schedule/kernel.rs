//! What the scheduler hands to a backend: kernels, the steps that launch them, and the weights they read. Knows
//! nothing of how either is found.

use super::{Operand, View};
use ir::{
    DType, Graph, Type, Value,
    abi::{Codec, cuda::Cell},
    ops,
};

/// Code to be generated: what to compute and how operands are addressed, not where they lie. Equal kernels share
/// their code.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// What to compute.
    pub template: Template,
    /// One for each operand, in order; the output is the last.
    pub views: Vec<View>,
    /// Operands that it computes for itself in steps of one row.
    pub inlined: Vec<Inlined>,
    /// Whether its readers do that with what it gives, so that it has nothing to do in such a step.
    pub elided: bool,
}

/// A map that a kernel behind it computes for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Inlined {
    /// Which operand it would have written.
    pub operand: usize,
    /// As [`Template::Map`]'s.
    pub body: Graph,
    /// As [`Template::Map`]'s.
    pub scatter: Option<usize>,
    /// Where the body's inputs begin among the kernel's operands.
    pub first: usize,
}

impl Inlined {
    /// What a map computes, for a kernel that has its operands from `first` on; `None` for any other kernel.
    pub fn of(operand: usize, map: &Kernel, first: usize) -> Option<Inlined> {
        let Template::Map { body, scatter, .. } = &map.template else {
            return None;
        };
        Some(Inlined {
            operand,
            body: body.clone(),
            scatter: *scatter,
            first,
        })
    }
}

/// The three kinds of kernel.
#[derive(Clone, PartialEq)]
pub enum Template {
    /// Elementwise and row-wise work over the rows of the output. Operands: the inputs of `body`, the output.
    Map {
        /// One output. Primitives over inputs, in operand order.
        body: Graph,
        /// The body's input that gives each output row's index, where rows are scattered.
        scatter: Option<usize>,
        /// What becomes of the body's rows.
        round: Round,
    },
    /// `body` of `weights` products. Operands: `x: [M, K]`, the packed weights, the inputs of `body` after the
    /// accumulators, the output `[M, N]`.
    Gemm {
        /// One output; the first inputs are the accumulators.
        body: Graph,
        /// How many weights share `x`.
        weights: usize,
        /// Columns of each weight.
        columns: i64,
        /// How the weights' panels are stored.
        codec: Codec,
        /// How the rows of `x` are stored: as f32, or in the same groups as the weights.
        rows: Codec,
    },
    /// See [`ops::Attention`]. Operands: q, k, v, lo, hi, out.
    Attention(ops::Attention),
}

/// What a map does with the rows that its body computes ([`ops::FakeQuantize`] as the body's root).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Stores them.
    None,
    /// Stores the integers of this codec.
    Codes(Codec),
    /// Stores as f32 what they stand for.
    Values(Codec),
}

/// A value that a step writes to memory of the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Temp {
    /// Its type.
    pub ty: Type,
    /// How it is stored.
    pub codec: Codec,
}

impl Temp {
    /// Bytes of the largest.
    pub fn bytes(&self) -> u64 {
        let bound = |dim: ir::Dim| u64::try_from(dim.bound()).unwrap_or(0);
        match self.codec {
            Codec::Plain(dtype) => bound(self.ty.numel()).saturating_mul(dtype.bytes() as u64),
            Codec::Grouped { .. } => {
                let columns = usize::try_from(bound(self.ty.last())).unwrap_or(0);
                bound(self.ty.rows()).saturating_mul(self.codec.row(columns) as u64)
            }
        }
    }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Template {
    /// For profiles.
    pub fn name(&self) -> &'static str {
        match self {
            Template::Map { .. } => "map",
            Template::Gemm { .. } => "gemm",
            Template::Attention(_) => "attention",
        }
    }
}

/// How a weight lies in the artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Row-major.
    Rows,
    /// `[K, N]` in panels, see [`ir::abi::PANEL`].
    Panels,
    /// `[K, N]` column by column, see [`ir::abi::cuda::DEPTH`].
    Columns,
    /// `[K, N]` as tensor cores take it, see [`ir::abi::cuda::Cell`].
    Cells,
}

/// In which order a backend wants things in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The weights of products.
    pub products: Packing,
    /// Whether states that attention alone reads lie in blocks, see [`ir::abi::Layout`].
    pub blocks: bool,
    /// Whether rows that meet weights of few bits are stored as integers.
    pub codes: bool,
    /// What takes rows of bf16: rows that nothing else reads, and that are rounded to bf16, are stored so.
    pub narrow: Narrow,
    /// Whether kernels compute small maps in front of them for themselves, see [`Inlined`].
    pub inline: bool,
}

/// Kernels that take rows of bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// Products with weights of bf16.
    Products,
    /// Products with any weights in cells, and attention.
    All,
}

impl Narrow {
    /// Whether products with weights stored so do.
    pub fn product(self, weights: Codec) -> bool {
        match self {
            Narrow::Products => weights == Codec::Plain(DType::BF16),
            Narrow::All => Cell::of(weights).is_some(),
        }
    }

    /// Whether attention does.
    pub fn attention(self) -> bool {
        self == Narrow::All
    }
}

impl Packing {
    /// How a weight of that storage lies where products want this.
    #[must_use]
    pub fn of(self, codec: Codec) -> Packing {
        match self {
            Packing::Columns if Cell::of(codec).is_some() => Packing::Cells,
            other => other,
        }
    }
}

/// A weights-only term to be computed at compile time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightTerm {
    /// In the extracted graph.
    pub value: Value,
    /// What stores it exactly.
    pub codec: Codec,
    /// Its layout.
    pub packing: Packing,
}

/// One kernel applied to operands.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it computes, for people.
    pub label: String,
    /// Index into the schedule's kernels.
    pub kernel: usize,
    /// One for each view of the kernel.
    pub operands: Vec<Operand>,
}
