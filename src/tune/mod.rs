//! What kernels cost on this machine, measured: programs of one kind of kernel are compiled, run, and timed launch by launch
//! over a grid of sizes. What comes of it is the compiler's cost model ([`CostTable`]), kept beside the compiled models.
//! Knows templates and sizes; no models.

mod gpu;
mod machine;
mod probe;
mod processor;
mod programs;
mod store;

pub use machine::Machine;
pub use probe::{Probe, Shape};
pub use store::Tables;

use crate::measure::latency::Latency;
use compiler::optimize::cost::{CostTable, GridError, TableError};
use std::{path::PathBuf, time::Duration};

/// Told how far measuring is: `(what, done, of)`.
pub type Progress<'a> = &'a dyn Fn(&'static str, usize, usize);

/// Measures what kernels cost on this machine, which must have nothing else to do.
///
/// # Errors
/// Kernels that do not compile or run; no memory.
pub fn tune(
    machine: &Machine,
    points: &Points,
    progress: Progress<'_>,
) -> Result<CostTable, Error> {
    // Each time again from the start: what disturbs a machine for some seconds disturbs one sweep.
    let sweep = |i: usize| {
        let told = |what, done, of| progress(what, i * of + done, points.sweeps * of);
        match machine.target.is_gpu() {
            true => gpu::tune(machine, points, &told),
            false => processor::tune(machine, points, &told),
        }
    };
    let sweeps = (0..points.sweeps.max(1))
        .map(sweep)
        .collect::<Result<_, _>>()?;
    Ok(CostTable::median(sweeps).expect("a sweep at least"))
}

/// The middle one; what took less than a picosecond took one.
fn picoseconds(times: Vec<Duration>) -> u64 {
    let median = Latency::new(times).map_or(0.0, |l| l.median());
    ((median * 1e12).round() as u64).max(1)
}

/// Sizes to measure at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Points {
    /// Rows of products and of maps; the first ones of maps.
    pub rows: Vec<u64>,
    /// What products sum over.
    pub depths: Vec<u64>,
    /// Columns of their weights.
    pub columns: Vec<u64>,
    /// Elements of rows of maps.
    pub elements: u64,
    /// Keys of attention.
    pub keys: Vec<u64>,
    /// Elements of its heads.
    pub dims: Vec<u64>,
    /// Bytes that are read again and again.
    pub sets: Vec<u64>,
    /// Runs of which the median counts.
    pub runs: usize,
    /// Times that all of it is done, of which the median counts, too.
    pub sweeps: usize,
}

impl Points {
    /// Those of a machine: on two cores they take about a minute.
    pub fn of(machine: &Machine) -> Points {
        let gpu = Points {
            rows: vec![1, 2, 4, 8, 16, 32, 64, 128, 256, 1024],
            depths: vec![512, 4096],
            columns: vec![512, 4096, 16384],
            elements: 2048,
            keys: vec![64, 512, 2048],
            dims: vec![64, 128],
            sets: vec![],
            runs: 9,
            // Nobody else runs on it, and its clock does not wait for the host.
            sweeps: 1,
        };
        match machine.target.is_gpu() {
            true => gpu,
            false => Points::of_processors(),
        }
    }

    fn of_processors() -> Points {
        Points {
            rows: vec![1, 2, 4, 8, 16, 32, 64, 128, 512],
            depths: vec![128, 512, 2048],
            columns: vec![64, 512, 4096],
            elements: 512,
            keys: vec![16, 128, 512],
            dims: vec![32, 64, 128],
            sets: [1, 4, 16, 32, 64, 128, 256].map(|mb| mb << 20).into(),
            runs: 5,
            sweeps: 3,
        }
    }

    /// The fewest that make a table: for tests.
    pub fn fewest() -> Points {
        Points {
            rows: vec![1, 8],
            depths: vec![64],
            columns: vec![64, 128],
            elements: 64,
            keys: vec![16],
            dims: vec![32],
            sets: vec![1 << 16, 1 << 20],
            runs: 1,
            sweeps: 1,
        }
    }
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Kernels that do not compile.
    #[error(transparent)]
    Compile(#[from] compiler::CompileError),
    /// Weights that cannot be rounded.
    #[error(transparent)]
    Model(#[from] compiler::models::ModelError),
    /// Kernels that do not run.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// Compiling for GPUs needs what is not there.
    #[error(transparent)]
    Nvrtc(#[from] crate::nvrtc::NoNvrtc),
    /// A GPU without events.
    #[error("the device has no clock of its own")]
    Clock,
    /// No memory to measure the speed of reading with.
    #[error("memory to measure the speed of reading with: {0}")]
    Memory(std::io::Error),
    /// Sizes that are no grid.
    #[error("sizes to measure at: {0}")]
    Points(#[from] GridError),
    /// A table cannot be written.
    #[error("{}: {source}; set SATURA_CACHE to another folder", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A table cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A table that is there is not used.
    #[error("{}: {source}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TableError,
    },
}
