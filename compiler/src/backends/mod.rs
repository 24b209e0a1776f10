//! Backends: kernels to code. One folder each; a backend knows kernels and targets, not models, graphs or memory.

pub mod cpu;
pub mod cuda;
mod rows;

use crate::{
    Options,
    schedule::{Kernel, Narrow, Order, Packing},
};
use ir::{Name, Target, artifact::Variants};

/// Code for a list of kernels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Code {
    /// Position-independent, without relocations.
    pub bytes: Vec<u8>,
    /// One for each kernel, in order.
    pub kernels: Vec<Variants>,
    /// See [`ir::artifact::Image::toolkit`].
    pub toolkit: Option<(u32, u32)>,
}

/// A kernel to be compiled.
#[derive(Clone, Debug)]
pub struct Unit<'a> {
    /// What it is called in messages: the graph that has it first, and the nodes that it computes there.
    pub name: String,
    /// The kernel.
    pub kernel: &'a Kernel,
}

impl Unit<'_> {
    /// That the backend has no code for it.
    fn refused(&self, backend: &'static str, why: impl Into<String>) -> EmitError {
        EmitError::Kernel {
            backend,
            kernel: self.name.clone(),
            template: self.kernel.template.name(),
            why: why.into(),
        }
    }
}

/// Why a backend has no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmitError {
    /// For any kernel.
    #[error("{backend}: {why}")]
    Target {
        /// Which backend.
        backend: &'static str,
        /// What it lacks.
        why: String,
    },
    /// For one.
    #[error("{backend}: no code for {kernel} (a {template} kernel): {why}")]
    Kernel {
        /// Which backend.
        backend: &'static str,
        /// As [`Unit::name`].
        kernel: String,
        /// Its template.
        template: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// A target for kernels.
pub trait Backend {
    /// Code for the kernels. `symbols` are in the order in which the runtime passes their values.
    ///
    /// # Errors
    /// The first kernel that it has no code for.
    fn emit(&self, kernels: &[Unit<'_>], symbols: &[Name]) -> Result<Code, EmitError>;
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
        narrow: if gpu { Narrow::All } else { Narrow::Products },
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
