//! Backends: kernels to code. One folder each; a backend knows kernels and targets, not models, graphs or memory.

pub mod cpu;
pub mod cuda;
mod rows;

use crate::{
    Options,
    schedule::{Kernel, Order, Packing},
};
use ir::{Name, Target, artifact::Variants};

/// Code for a list of kernels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Code {
    /// Position-independent, without relocations.
    pub bytes: Vec<u8>,
    /// One for each kernel, in order.
    pub kernels: Vec<Variants>,
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

/// In which order kernels for the target want things in memory.
pub fn order(target: &Target) -> Order {
    let gpu = target.is_gpu();
    Order {
        products: if gpu {
            Packing::Columns
        } else {
            Packing::Panels
        },
        blocks: !gpu,
        codes: !gpu,
        narrow: gpu,
        inline: gpu,
    }
}

/// What generates code for the options' target.
///
/// # Errors
/// No backend covers it, or what it needs is missing.
pub fn of(options: &Options) -> Result<Box<dyn Backend>, EmitError> {
    let target = &options.target;
    Ok(match target.is_gpu() {
        true => Box::new(cuda::Cuda::new(target, options.nvrtc.as_ref())?),
        false => Box::new(cpu::Cpu::new(target)?),
    })
}
