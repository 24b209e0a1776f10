//! The measured cost model: what kernels took on one machine, by template, storage and size. Measures nothing itself:
//! a table is given, like a target.

use super::{CostModel, Grid};
use ir::{
    DType,
    abi::{ABI_VERSION, Codec},
    artifact::{Attention, Core, Product, Work},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Rows of queries that a tile of attention has at most.
pub const TILE: u64 = 64;

/// See the module's text. All times are picoseconds of a whole launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostTable {
    /// [`ABI_VERSION`] of the kernels that were measured.
    pub kernels: u32,
    /// The compiler that generated them.
    pub compiler: String,
    /// The processor or GPU.
    pub machine: String,
    /// Threads, or multiprocessors of a GPU.
    pub threads: usize,
    /// A launch that does nothing.
    pub boundary: u64,
    /// Reading a megabyte of a set of so many bytes, again and again: where a model's weights lie.
    pub reads: Grid,
    /// By how rows and weights are stored.
    pub products: Vec<Products>,
    /// By elements and operations an element.
    pub maps: Grid,
    /// By how keys and values are kept.
    pub attention: Vec<Scores>,
}

/// Times of products whose operands are stored alike, by rows, depth and columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Products {
    /// How rows are stored.
    pub inputs: Codec,
    /// How weights are stored.
    pub codec: Codec,
    /// With weights that were read a moment ago.
    pub near: Grid,
    /// With weights that only memory has.
    pub far: Grid,
}

/// Times of a tile of attention: some rows of one head of keys, by rows (up to [`TILE`]), keys, and elements of a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scores {
    /// Of keys and values.
    pub dtype: DType,
    /// Whether they are kept from step to step.
    pub cached: bool,
    /// Of one thread.
    pub tile: Grid,
}

/// Why a table is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// It does not parse, or what it says is no table.
    #[error("is damaged: {0}; delete it, or run `satura tune` again")]
    Damaged(String),
    /// Kernels are others by now.
    #[error(
        "is of other kernels (ABI {found}, of satura {compiler}; this is ABI {ABI_VERSION}, satura {}); run `satura tune` again",
        env!("CARGO_PKG_VERSION")
    )]
    Stale {
        /// Of the table.
        found: u32,
        /// Of the table.
        compiler: String,
    },
}

impl CostTable {
    /// A table as [`CostTable::encode`] wrote it.
    ///
    /// # Errors
    /// Damage, or a table of other kernels.
    pub fn decode(json: &[u8]) -> Result<CostTable, TableError> {
        let damaged = |why: String| TableError::Damaged(why);
        // Tables of other kernels may have other fields.
        let any: serde_json::Value =
            serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))?;
        let (kernels, compiler) = (any["kernels"].as_u64(), any["compiler"].as_str());
        let kernels = kernels.ok_or_else(|| damaged("says no version of kernels".into()))?;
        let compiler = compiler.unwrap_or("unknown");
        if kernels != u64::from(ABI_VERSION) || compiler != env!("CARGO_PKG_VERSION") {
            return Err(TableError::Stale {
                found: u32::try_from(kernels).unwrap_or(u32::MAX),
                compiler: compiler.into(),
            });
        }
        let table: CostTable = serde_json::from_value(any).map_err(|e| damaged(e.to_string()))?;
        table.check()?;
        Ok(table)
    }

    /// Whether it can be asked for costs, wherever it comes from.
    ///
    /// # Errors
    /// Grids of other axes, or nothing measured.
    pub fn check(&self) -> Result<(), TableError> {
        let damaged = |why: String| Err(TableError::Damaged(why));
        for (grid, axes) in self.clone().grids() {
            if grid.axes() != axes {
                let found = grid.axes();
                return damaged(format!("a grid of {found} axes, not {axes}"));
            }
        }
        if self.products.is_empty() || self.attention.is_empty() || self.threads == 0 {
            return damaged("lacks products, attention or threads".into());
        }
        Ok(())
    }

    /// All grids, and how many axes each is to have.
    fn grids(&mut self) -> Vec<(&mut Grid, usize)> {
        let products = self.products.iter_mut();
        let products = products.flat_map(|p| [(&mut p.near, 3), (&mut p.far, 3)]);
        let attention = self.attention.iter_mut().map(|a| (&mut a.tile, 3));
        let others = [(&mut self.maps, 2), (&mut self.reads, 1)];
        products.chain(attention).chain(others).collect()
    }

    /// Of several sweeps over the same points the median of each time, so that what disturbed one of them does not count;
    /// `None` of none.
    pub fn median(mut sweeps: Vec<CostTable>) -> Option<CostTable> {
        let mut boundaries: Vec<u64> = sweeps.iter().map(|s| s.boundary).collect();
        boundaries.sort_unstable();
        let mut median = sweeps.first()?.clone();
        median.boundary = boundaries[boundaries.len() / 2];
        let sweeps: Vec<_> = sweeps.iter_mut().map(CostTable::grids).collect();
        for (i, (grid, _)) in median.grids().into_iter().enumerate() {
            let same = sweeps.iter().filter_map(|grids| grids.get(i));
            let same: Vec<&Grid> = same.map(|(grid, _)| &**grid).collect();
            *grid = Grid::median(&same)?;
        }
        Some(median)
    }

    /// As JSON.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("numbers and names")
    }

    /// What tells tables apart: of all that they say.
    pub fn digest(&self) -> [u8; 32] {
        blake3::hash(self.encode().as_bytes()).into()
    }

    /// For people: what it was measured on.
    pub fn about(&self) -> String {
        let digest = blake3::Hash::from(self.digest()).to_hex();
        format!(
            "measured on {}, {} threads (table {})",
            self.machine,
            self.threads,
            &digest[..8]
        )
    }

    /// The costs of a model that reads so many bytes of weights in a step.
    pub fn of(self: &Arc<Self>, weights: u64) -> Measured {
        let mut sets = self.reads.points().map(|(_, time)| time as f64);
        let nearest = sets.next().unwrap_or(1.0);
        let farthest = sets.next_back().unwrap_or(nearest);
        let time = self.reads.at(&[weights]).clamp(nearest, farthest);
        let span = farthest - nearest;
        Measured {
            table: Arc::clone(self),
            far: if span > 0.0 {
                (time - nearest) / span
            } else {
                1.0
            },
        }
    }
}

/// A [`CostTable`] for a model whose weights lie somewhere between the nearest cache and memory.
#[derive(Clone, Debug)]
pub struct Measured {
    table: Arc<CostTable>,
    /// 1 where all come from memory.
    far: f64,
}

impl Measured {
    /// Products as they are stored; those of the nearest storage where none were measured.
    fn products(&self, p: &Product) -> &Products {
        let bits = |codec: Codec| match codec {
            Codec::Plain(dtype) => 8 * dtype.bytes() as u64,
            Codec::Grouped { element, .. } => element.bits() as u64,
        };
        let distance = |known: &&Products| {
            let inputs = bits(known.inputs).abs_diff(bits(p.inputs));
            let weights = bits(known.codec).abs_diff(bits(p.codec));
            let other = known.inputs != p.inputs || known.codec != p.codec;
            (inputs, weights, other)
        };
        let nearest = self.table.products.iter().min_by_key(distance);
        nearest.expect("a table has products")
    }

    fn product(&self, p: &Product) -> f64 {
        let products = self.products(p);
        let sizes = [p.rows, p.depth, p.columns];
        let (near, far) = (products.near.at(&sizes), products.far.at(&sizes));
        near + self.far * (far - near).max(0.0)
    }

    fn attention(&self, a: &Attention) -> f64 {
        let distance = |s: &&Scores| (s.cached != a.cached, s.dtype != a.dtype);
        let scores = self.table.attention.iter().min_by_key(distance);
        let scores = scores.expect("a table has attention");
        let rows = a.rows.clamp(1, TILE);
        let tiles = a.heads.saturating_mul(a.rows.div_ceil(TILE));
        let tile = scores.tile.at(&[rows, a.keys.max(1), a.dim]);
        // Tiles are shared out whole.
        let turns = tiles.div_ceil(self.table.threads as u64);
        self.table.boundary as f64 + tile * turns as f64
    }

    /// A body by itself.
    fn body(&self, work: &Work) -> f64 {
        if work.elements == 0 {
            return 0.0;
        }
        let each = work.flops.div_ceil(work.elements);
        self.table.maps.at(&[work.elements, each])
    }
}

impl CostModel for Measured {
    fn kernel(&self, work: &Work) -> u64 {
        if *work == Work::default() {
            return 0;
        }
        let boundary = self.table.boundary as f64;
        let time = match &work.core {
            Core::Map => self.body(work),
            // A body that does nothing is none: products are written where they belong.
            Core::Product(p) if work.flops == 0 => self.product(p),
            Core::Product(p) => self.product(p) + (self.body(work) - boundary).max(0.0),
            Core::Attention(a) => self.attention(a),
        };
        time.max(boundary).round() as u64
    }
}
