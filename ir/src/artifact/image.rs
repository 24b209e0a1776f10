//! Code for one target: where it is in the file, and how each of the plan's kernels is started. An artifact may hold
//! several images of one plan; all read the same weights.

use crate::{Dim, Sym, Target};
use serde::{Deserialize, Serialize};

/// How many independent tasks a launch has: `ceil(rows / rows_per_task) * columns`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tasks {
    /// Rows of this step, over the plan's symbols.
    pub rows: Dim,
    /// Rows that one task covers, at least 1.
    pub rows_per_task: u64,
    /// Tasks side by side for each block of rows; the block of rows varies fastest.
    pub columns: u64,
}

impl Tasks {
    /// The number of tasks with each symbol at `at` of it.
    pub fn count(&self, at: &dyn Fn(&Sym) -> i64) -> u64 {
        let rows = u64::try_from(self.rows.eval(at)).unwrap_or(0);
        rows.div_ceil(self.rows_per_task.max(1)) * self.columns
    }
}

/// What runs tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Workers {
    /// Threads of a processor, each of which takes some tasks.
    Threads {
        /// Fewest tasks worth giving to another thread.
        grain: u64,
    },
    /// Blocks of a GPU, see [`cuda`](crate::abi::cuda).
    Blocks {
        /// Threads of a block.
        threads: u32,
        /// Bytes of shared memory of a block that the launch has to ask for.
        shared: u32,
        /// Most blocks for each multiprocessor, which then take several tasks each; 0 for a block a task.
        resident: u32,
        /// Bytes of scratch memory for each task.
        scratch: u64,
        /// Operands that blocks copy in tiles, in the order of their maps, see [`cuda`](crate::abi::cuda).
        maps: Vec<TensorMap>,
    },
}

/// An array that blocks of a GPU copy in tiles (`cuTensorMapEncodeTiled`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMap {
    /// Which operand it is.
    pub operand: u32,
    /// Bytes of an element: 2 or 4.
    pub element: u32,
    /// Elements along each axis, the innermost first; 0 for as many as tasks have rows.
    pub shape: [u64; 3],
    /// Bytes between neighbours along each axis but the first.
    pub strides: [u64; 2],
    /// Elements of a tile along each axis.
    pub tile: [u32; 3],
    /// Whether chunks of 16 bytes are permuted within 128.
    pub permuted: bool,
}

/// Code for a range of sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Most rows (of [`Tasks::rows`]) that this one is for.
    pub rows: u64,
    /// Offset of its code in the image.
    pub entry: u64,
    /// How many tasks.
    pub tasks: Tasks,
    /// By whom they are run.
    pub workers: Workers,
}

/// One kernel of the plan: the first variant that is for as many rows as a step has runs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Variants(pub Vec<Variant>);

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// What the code needs.
    pub target: Target,
    /// Of code for a GPU the version of CUDA whose compiler made it; drivers for an older one may refuse it.
    pub toolkit: Option<(u32, u32)>,
    /// First byte in the code.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// For each kernel of the plan.
    pub kernels: Vec<Variants>,
}
