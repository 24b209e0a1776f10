//! What a kernel does, in numbers: what the time of a step is predicted from. Knows no times.

use crate::{DType, Dim, abi::Codec};
use serde::{Deserialize, Serialize};

/// Of a kernel or a part of one. `N` is a number, or in a plan a polynomial over its symbols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work<N = u64> {
    /// Bytes of weights that are read, each once.
    pub weights: N,
    /// Bytes of other values, read and written, each once.
    pub values: N,
    /// Elements that the body computes.
    pub elements: N,
    /// Operations of the body; a transcendental function counts as ten.
    pub flops: N,
    /// What the body runs over.
    pub core: Core<N>,
    /// Rows, where a kernel behind it does all this for itself in steps of one row.
    pub elided: Option<N>,
}

/// What the body of a kernel runs over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Core<N = u64> {
    /// What it reads.
    #[default]
    Map,
    /// Products with weights.
    Product(Product<N>),
    /// Nothing: attention has no body.
    Attention(Attention<N>),
}

/// `[rows, depth]` by `[depth, columns]`; of several weights that share the rows, all their columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product<N = u64> {
    /// Of the left side.
    pub rows: N,
    /// What is summed over.
    pub depth: N,
    /// Of the weights.
    pub columns: N,
    /// How rows are stored.
    pub inputs: Codec,
    /// How weights are stored.
    pub codec: Codec,
}

/// Attention, seen from its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention<N = u64> {
    /// Heads of keys and values.
    pub heads: N,
    /// Rows of queries, over all query heads that share a head of keys.
    pub rows: N,
    /// Keys that there are; a row may attend to fewer.
    pub keys: N,
    /// Elements of a head.
    pub dim: N,
    /// Of keys and values.
    pub dtype: DType,
    /// Whether they are kept from step to step.
    pub cached: bool,
}

impl Work {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.weights.saturating_add(self.values)
    }

    /// All operations, a multiply-add counting two.
    pub fn operations(&self) -> u64 {
        let core = match self.core {
            Core::Map => 0,
            Core::Product(p) => [p.rows, p.depth, p.columns, 2]
                .into_iter()
                .fold(1, u64::saturating_mul),
            Core::Attention(a) => [a.heads, a.rows, a.keys, a.dim, 4]
                .into_iter()
                .fold(1, u64::saturating_mul),
        };
        self.flops.saturating_add(core)
    }
}

impl Work<Dim> {
    /// In a step of certain sizes.
    pub fn at(&self, size: &dyn Fn(&Dim) -> u64) -> Work {
        let elided = self.elided.as_ref().map(size);
        if elided == Some(1) {
            return Work::default();
        }
        Work {
            weights: size(&self.weights),
            values: size(&self.values),
            elements: size(&self.elements),
            flops: size(&self.flops),
            core: match &self.core {
                Core::Map => Core::Map,
                Core::Product(p) => Core::Product(Product {
                    rows: size(&p.rows),
                    depth: size(&p.depth),
                    columns: size(&p.columns),
                    inputs: p.inputs,
                    codec: p.codec,
                }),
                Core::Attention(a) => Core::Attention(Attention {
                    heads: size(&a.heads),
                    rows: size(&a.rows),
                    keys: size(&a.keys),
                    dim: size(&a.dim),
                    dtype: a.dtype,
                    cached: a.cached,
                }),
            },
            elided,
        }
    }

    /// What is done: `map`, `gemm` or `attention`.
    pub fn template(&self) -> &'static str {
        match self.core {
            Core::Map => "map",
            Core::Product(_) => "gemm",
            Core::Attention(_) => "attention",
        }
    }
}
