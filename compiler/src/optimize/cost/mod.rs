//! What a kernel costs. Integer picoseconds, so that sums do not depend on their order; knows work, not rewrites.

mod grid;
mod roofline;
mod table;

pub use grid::{Grid, GridError};
pub use roofline::Roofline;
pub use table::{CostTable, Measured, Products, Scores, TILE, TableError};

use ir::{
    Dim, Name, Sym,
    artifact::{Core, Work},
};
use std::{collections::BTreeMap, fmt};

/// Picoseconds of kernels. Implementations are monotone: more work never costs less.
pub trait CostModel: fmt::Debug + Send + Sync {
    /// A kernel doing that work, its start and end included.
    fn kernel(&self, work: &Work) -> u64;
}

/// Sizes at which costs are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    sizes: BTreeMap<Name, u32>,
    /// Keys that a token attends to, where it is not all that there are.
    keys: Option<u64>,
}

impl Binding {
    /// Each symbol at its size.
    pub fn new<'a>(sizes: impl IntoIterator<Item = (&'a str, u32)>) -> Binding {
        Binding {
            sizes: sizes.into_iter().map(|(n, k)| (n.into(), k)).collect(),
            keys: None,
        }
    }

    /// With tokens that attend to so many keys, on average.
    #[must_use]
    pub fn attending(self, keys: u64) -> Binding {
        Binding {
            keys: Some(keys),
            ..self
        }
    }

    /// A symbol's size: as given, else 1; never above its maximum.
    pub fn at(&self, sym: &Sym) -> i64 {
        i64::from(self.sizes.get(&sym.name).copied().unwrap_or(1).min(sym.max))
    }

    /// A dim's size.
    pub fn size(&self, dim: &Dim) -> u64 {
        u64::try_from(dim.eval(&|s| self.at(s))).unwrap_or(0)
    }

    /// Keys that a token attends to, of `all` that there are.
    pub fn keys(&self, all: u64) -> u64 {
        self.keys.map_or(all, |keys| keys.min(all))
    }

    /// What a kernel does at these sizes.
    pub fn work(&self, work: &Work<Dim>) -> Work {
        let mut work = work.at(&|dim| self.size(dim));
        if let Core::Attention(a) = &mut work.core {
            a.keys = self.keys(a.keys);
        }
        work
    }
}
