//! Why something cannot be measured.

use std::path::PathBuf;

/// See the module's text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not what it has to be.
    #[error("{}: {why}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong with it, and what is expected.
        why: String,
    },
    /// The model and what it is measured with do not fit together.
    #[error("{0}")]
    Mismatch(String),
    /// The reference interpreter cannot evaluate a layer.
    #[error("{layer}: the model's program cannot be evaluated: {source}")]
    Program {
        /// The layer.
        layer: String,
        /// Why.
        source: ir::EvalError,
    },
    /// The model does not run.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// Text does not turn into tokens.
    #[error(transparent)]
    Tokenizer(#[from] runtime::tokenizer::TokenizerError),
}
