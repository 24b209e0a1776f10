//! Everything that can go wrong between a file and a model's outputs, in words for the person at the keyboard.

use crate::sample::SampleError;
use ir::{Target, artifact::ArtifactError};

/// Why a model does not load or a session does not run. A session that returned one can be used further, as the step
/// that failed changed nothing; but for failures of a GPU, of which the session says so from then on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read, or memory cannot be had.
    #[error("{what}: {source}")]
    Io {
        /// The path, or what the memory is for and how much it is.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The bytes are no artifact that this build can run.
    #[error("{origin}: {source}")]
    Artifact {
        /// The file, or `artifact in memory`.
        origin: String,
        /// What is wrong with it.
        source: ArtifactError,
    },
    /// The code is for another machine.
    #[error(
        "{origin}: compiled for {needs}; {machine} lacks {}; compile the model for it (--target {remedy})",
        missing.join(", ")
    )]
    Target {
        /// The file, or `artifact in memory`.
        origin: String,
        /// What the code is for.
        needs: Box<Target>,
        /// What the machine is.
        machine: String,
        /// The difference.
        missing: Vec<String>,
        /// The name of a target that it has.
        remedy: String,
    },
    /// The GPU cannot be used, or failed.
    #[error("{what}: {why}")]
    Gpu {
        /// What was being done.
        what: String,
        /// The driver's reason, or ours.
        why: String,
    },
    /// A kernel went astray, after which the driver refuses all that the process asks of the GPU. Models on the processor run on.
    #[error(
        "the GPU failed: {what}: {why}; it does nothing more for this process: end it and start it again"
    )]
    GpuLost {
        /// What was being done when it was noticed.
        what: String,
        /// The driver's reason.
        why: String,
    },
    /// The GPU has too little memory.
    #[error(
        "{what}: {needed} bytes of the GPU's memory are needed, {free} of {total} are free; {remedy}"
    )]
    GpuMemory {
        /// What the memory is for.
        what: String,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Bytes in all.
        total: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// The plan wants or gives something that a session knows nothing of.
    #[error("the plan's {what} {name} is none that a session knows; it knows {known}")]
    Plan {
        /// `input`, `output`, `symbol` or `kernel`.
        what: &'static str,
        /// As the plan says, with its type.
        name: String,
        /// What would have been understood.
        known: String,
    },
    /// An option does not fit the model.
    #[error("option {option} is {found}, this model allows 1 to {limit}")]
    Options {
        /// The option's name.
        option: &'static str,
        /// As given.
        found: usize,
        /// Largest allowed value.
        limit: usize,
    },
    /// The model is not for this.
    #[error("{wanted} was asked of {architecture}, which gives {gives}")]
    Task {
        /// What the caller wants, e.g. `generation`.
        wanted: &'static str,
        /// The model's architecture.
        architecture: String,
        /// Its outputs.
        gives: String,
    },
    /// No such sequence in the session.
    #[error(
        "sequence {sequence} does not exist: the session was made for {sequences}, numbered from 0"
    )]
    Sequence {
        /// As given.
        sequence: usize,
        /// In the session.
        sequences: usize,
    },
    /// An input is empty, of the wrong length or out of range.
    #[error("sequence {sequence}: {why}")]
    Input {
        /// Which, or which in the batch of an encoder.
        sequence: usize,
        /// What is wrong, with both sides.
        why: String,
    },
    /// A token that the model does not have.
    #[error(
        "sequence {sequence}: token {token} at position {position} is not in the vocabulary of {vocabulary} (ids from 0)"
    )]
    Token {
        /// Which, or which in the batch of an encoder.
        sequence: usize,
        /// Its id.
        token: u32,
        /// Its index in the sequence.
        position: usize,
        /// Ids are below this.
        vocabulary: usize,
    },
    /// More tokens than the session has room for.
    #[error(
        "sequence {sequence}: {length} tokens do not fit the context of {context}; shorten the prompt"
    )]
    Context {
        /// Which, or which in the batch of an encoder.
        sequence: usize,
        /// Tokens that the sequence would have.
        length: usize,
        /// Most that it may have.
        context: usize,
    },
    /// No token can be chosen from the logits.
    #[error(transparent)]
    Sample(#[from] SampleError),
}
