//! Backends: kernels to code. One folder each; a backend knows kernels and targets, not models, graphs or memory.

pub mod cpu;

use crate::schedule::Kernel;
use ir::{Name, artifact::Tasks};

/// Code for a list of kernels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Code {
    /// Position-independent, without relocations.
    pub bytes: Vec<u8>,
    /// One for each kernel, in order.
    pub entries: Vec<Entry>,
}

/// Where a kernel's code starts and how its work is divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Offset in [`Code::bytes`].
    pub offset: u64,
    /// How many tasks the kernel has.
    pub tasks: Tasks,
    /// Fewest tasks worth giving to another thread.
    pub grain: u64,
}

/// A kernel that a backend has no code for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{backend}: no code for a {template} kernel: {why}")]
pub struct EmitError {
    /// Which backend.
    pub backend: &'static str,
    /// Which template.
    pub template: &'static str,
    /// What it lacks.
    pub why: String,
}

/// A target for kernels.
pub trait Backend {
    /// Code for the kernels. `symbols` are in the order in which the runtime passes their values.
    ///
    /// # Errors
    /// The first kernel that it has no code for.
    fn emit(&self, kernels: &[&Kernel], symbols: &[Name]) -> Result<Code, EmitError>;
}
