//! Everything that can go wrong between a file and a model's outputs, in words for the person at the keyboard.

use crate::sample::SampleError;
use ir::{Target, artifact::ArtifactError};

/// Why a model does not load or a session does not run. A session that returned one can be used further: the step
/// that failed changed nothing.
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
        "{origin}: compiled for {needs}, which has {}; this machine is {machine} and lacks it; compile the model for this machine (--target native)",
        missing.join(", ")
    )]
    Target {
        /// The file, or `artifact in memory`.
        origin: String,
        /// What the code is for.
        needs: Box<Target>,
        /// What the machine has.
        machine: Box<Target>,
        /// The difference.
        missing: Vec<String>,
    },
    /// The GPU cannot be used, or failed.
    #[error("{what}: {why}")]
    Gpu {
        /// What was being done.
        what: String,
        /// The driver's reason, or ours.
        why: String,
    },
    /// The GPU has too little memory.
    #[error(
        "{what}: {needed} bytes of the GPU's memory are needed, {free} of {total} are free;          end what else uses it, or ask for a shorter context or fewer sequences"
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
