//! Launches with every address resolved, and the ways to run each: the variants of its kernel, by the number of rows. Knows no
//! steps.

use super::{Cuda, driver::Context, fault::failed};
use crate::{Error, devices::polynomial::Polynomial};
use ir::artifact::{Variant, Workers};

/// One way to run a launch.
#[derive(Debug)]
pub(super) struct Way {
    /// Most rows that it is for.
    pub most: u64,
    /// Offset of its kernel in the image.
    pub entry: u64,
    pub rows: Polynomial,
    pub rows_per_task: u64,
    pub columns: u64,
    pub threads: u32,
    pub shared: u32,
    /// Most blocks.
    pub blocks: u64,
    pub scratch: u64,
    pub args: Box<[u64]>,
}

impl Way {
    /// As [`Tasks::count`](ir::artifact::Tasks::count).
    pub fn tasks(&self, dims: &[i64]) -> u64 {
        let rows = self.rows.at(dims);
        rows.div_ceil(self.rows_per_task)
            .saturating_mul(self.columns)
    }

    /// Most tasks of a step within the capacity.
    pub fn most_tasks(&self, capacity: &[i64]) -> u64 {
        let rows = self.rows.at(capacity).min(self.most);
        rows.div_ceil(self.rows_per_task)
            .saturating_mul(self.columns)
    }
}

/// A launch whose addresses are known.
#[derive(Debug)]
pub(super) struct Launch {
    pub name: ir::Name,
    pub ways: Vec<Way>,
}

impl Launch {
    /// The way to run so many rows; the loader has seen that there is one.
    pub fn way(&self, dims: &[i64]) -> &Way {
        let fits = |w: &&Way| w.rows.at(dims) <= w.most;
        self.ways.iter().find(fits).unwrap_or(&self.ways[0])
    }
}

/// A variant with what the device has to know of it.
pub(super) fn way(
    variant: &Variant,
    loaded: &Cuda,
    rows: Polynomial,
    launch: &ir::artifact::Launch,
) -> Result<Way, Error> {
    let Workers::Blocks {
        threads,
        shared,
        resident,
        scratch,
        ..
    } = variant.workers
    else {
        return Err(Error::Plan {
            what: "kernel",
            name: format!("{} for {:?}", launch.name, variant.workers),
            known: "kernels for blocks".into(),
        });
    };
    loaded.kernels[&variant.entry].allow_shared(shared, &launch.name)?;
    Ok(Way {
        most: variant.rows,
        entry: variant.entry,
        rows,
        rows_per_task: variant.tasks.rows_per_task.max(1),
        columns: variant.tasks.columns,
        threads,
        shared,
        blocks: match resident {
            0 => u64::MAX,
            n => u64::from(n).saturating_mul(loaded.context.processors.into()),
        },
        scratch,
        args: [].into(),
    })
}

/// The one argument of a kernel, whose operands and what is behind them are `words`: with maps of what it copies in tiles, where
/// tasks have at most `rows` rows.
pub(super) fn arguments(
    context: &Context,
    launch: &ir::artifact::Launch,
    variant: &Variant,
    words: &[u64],
    rows: u64,
) -> Result<Box<[u64]>, Error> {
    let mut args = words.to_vec();
    if let Workers::Blocks { maps, .. } = &variant.workers {
        for map in maps {
            let base = words[..launch.operands.len()].get(map.operand as usize);
            let base = *base.ok_or_else(|| Error::Plan {
                what: "operand",
                name: format!("{} of {}", map.operand, launch.name),
                known: format!("{} operands", launch.operands.len()),
            })?;
            let words = context.tensor_map(map, base, rows);
            let words =
                words.map_err(failed(format_args!("mapping {map:?} of {}", launch.name)))?;
            args.resize(args.len().next_multiple_of(8), 0);
            args.extend(words);
        }
    }
    Ok(args.into())
}
