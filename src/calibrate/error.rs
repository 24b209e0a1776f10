//! Why a model cannot be calibrated.

use std::path::PathBuf;

/// See the module's text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The text is not one to calibrate on.
    #[error("{}: {why}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is wanted.
        why: String,
    },
    /// A file of statistics is not as it was written.
    #[error("{}: damaged statistics: {why}; delete the file and calibrate again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// Nothing to tell one plan from another by.
    #[error(
        "the model gives no logits, so divergence is not defined; budgets are for decoders and classifiers"
    )]
    NoLogits,
    /// A weight multiplies something that is no result of a layer.
    #[error("a weight multiplies {0}, of which there are no rows to look at")]
    NoRows(String),
    /// Compiled code keeps a value to itself.
    #[error("layer {layer} does not show its result {output}, which later layers read")]
    Layer {
        /// Which.
        layer: String,
        /// Of its results.
        output: usize,
    },
    /// It does not compile with what is watched.
    #[error(transparent)]
    Compile(#[from] compiler::CompileError),
    /// An op with other arguments does not type-check.
    #[error(transparent)]
    Type(#[from] ir::TypeError),
    /// It does not run.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// Text does not turn into tokens, or examples are none.
    #[error(transparent)]
    Measure(#[from] crate::measure::Error),
    /// Text does not turn into tokens.
    #[error(transparent)]
    Tokenizer(#[from] runtime::tokenizer::TokenizerError),
}
