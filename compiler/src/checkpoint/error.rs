//! What can be wrong with a checkpoint. Every message names the file, both sides of a mismatch, and the remedy.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file breaks the rules of its own format.
    #[error("{}: {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong, with expected and found quantities.
        problem: String,
    },
    /// A file is refused because reading it would be unsafe, or would mean running it.
    #[error("{}: refused: {reason}", file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// Why, and what to do instead.
        reason: String,
    },
    /// A key of config.json is missing, of the wrong kind, or absurd.
    #[error("{}: `{key}` is {found}, expected {expected}", file.display())]
    Config {
        /// The config file.
        file: PathBuf,
        /// The key, dotted where nested.
        key: String,
        /// The value found, as JSON, or `missing`.
        found: String,
        /// What was expected in its place.
        expected: String,
    },
    /// No tensor, or more than one, goes by this name.
    #[error("{}: tensor `{tensor}` {problem}", file.display())]
    Name {
        /// The file or directory that was searched.
        file: PathBuf,
        /// The name asked for.
        tensor: String,
        /// Missing (with near names) or ambiguous (with all candidates).
        problem: String,
    },
    /// A tensor is not what the config implies.
    #[error("{}: tensor `{tensor}` is {found}, expected {expected}", file.display())]
    Mismatch {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// Its dtype and shape.
        found: String,
        /// The dtype and shape wanted, and the config keys that imply them.
        expected: String,
    },
    /// A file is not what it was when the checkpoint was opened.
    #[error(
        "{}: changed while the model was being read: {how}; try again when nothing writes to it",
        file.display()
    )]
    Changed {
        /// The file.
        file: PathBuf,
        /// What is different.
        how: String,
    },
    /// A weight is NaN or infinite.
    #[error(
        "{}: tensor `{tensor}` holds {value} at index {index:?}: weights must be finite; the file is damaged or its training diverged",
        file.display()
    )]
    NotFinite {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// Index of the first such element, one number a dimension.
        index: Vec<usize>,
        /// `NaN`, `inf` or `-inf`.
        value: f32,
    },
}

impl CheckpointError {
    pub(super) fn io(file: &Path, source: io::Error) -> Self {
        Self::Io {
            file: file.to_path_buf(),
            source,
        }
    }

    pub(super) fn malformed(file: &Path, problem: impl Display) -> Self {
        Self::Malformed {
            file: file.to_path_buf(),
            problem: problem.to_string(),
        }
    }

    pub(super) fn refused(file: &Path, reason: impl Display) -> Self {
        Self::Refused {
            file: file.to_path_buf(),
            reason: reason.to_string(),
        }
    }
}
