//! Why there is no plan.

use super::Budget;
use std::path::PathBuf;

/// See the module's text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No plan keeps the budget.
    #[error("{budget}: no plan keeps it; reachable is {reachable}")]
    Unreachable {
        /// As asked for.
        budget: Budget,
        /// How near plans come.
        reachable: String,
    },
    /// A budget of something that the model has none of.
    #[error("{budget}: {why}")]
    Meaningless {
        /// As asked for.
        budget: Budget,
        /// Why it means nothing here.
        why: String,
    },
    /// A weight or its statistics are at fault.
    #[error("{weight}: {source}")]
    Compress {
        /// Which.
        weight: String,
        /// What is wrong.
        source: compiler::compress::CompressError,
    },
    /// A stored plan is of another version.
    #[error("there is no compression method {method}; delete the statistics and calibrate again")]
    Method {
        /// As stored.
        method: String,
    },
    /// What was written is not what was meant.
    #[error(
        "{weight}: the artifact does not hold what was chosen: {why}; this is a bug, and the artifact is not used"
    )]
    Corrupt {
        /// Which.
        weight: String,
        /// The first difference.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Statistics are missing or at fault.
    #[error(transparent)]
    Calibrate(#[from] crate::calibrate::Error),
    /// The checkpoint is at fault.
    #[error(transparent)]
    Checkpoint(#[from] compiler::checkpoint::CheckpointError),
    /// The model is not covered.
    #[error(transparent)]
    Model(#[from] compiler::models::ModelError),
    /// A weight cannot be computed.
    #[error(transparent)]
    Fold(#[from] compiler::fold::FoldError),
    /// A plan does not type-check.
    #[error(transparent)]
    Type(#[from] ir::TypeError),
    /// A plan does not compile.
    #[error(transparent)]
    Compile(#[from] compiler::CompileError),
    /// A plan does not run.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// A plan cannot be measured.
    #[error(transparent)]
    Measure(#[from] crate::measure::Error),
    /// Kernels cannot be timed.
    #[error(transparent)]
    Tune(#[from] crate::tune::Error),
    /// The model, its cache or its tokenizer are at fault.
    #[error(transparent)]
    Open(#[from] crate::Error),
}
