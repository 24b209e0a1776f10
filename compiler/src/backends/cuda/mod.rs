//! The CUDA backend: header-free C++ with inline PTX, a translation unit for each variant of a kernel, compiled by NVRTC
//! to cubins. Bodies are inlined as on the CPU; loops and tiles are skeletons in `kernels/*.cu`, which read generated
//! constants and functions. Needs no GPU and no driver.

mod attention;
mod expression;
mod gemm;
mod map;
mod nvrtc;
mod rows;
mod source;
mod text;

pub use nvrtc::{Cubin, Nvrtc, NvrtcError};
pub use source::Source;

use super::{Backend, Code, EmitError};
use crate::schedule::Kernel;
use ir::{Name, Target, artifact::Variants};
use rayon::prelude::*;

/// Alignment of each cubin in the code, in bytes.
const CUBIN_ALIGNMENT: usize = 64;

/// Generates code for one architecture of GPUs.
#[derive(Debug)]
pub struct Cuda {
    arch: String,
    nvrtc: Nvrtc,
}

fn wrong(template: &'static str, why: String) -> EmitError {
    EmitError {
        backend: "cuda",
        template,
        why,
    }
}

/// What kernels may use of an architecture.
#[derive(Clone, Copy, Debug)]
struct Chip {
    /// Bytes of shared memory that they give a block: of 163 KB before compute capability 9.0, of 227 KB since.
    shared: i64,
    /// Whether it multiplies by warpgroups.
    warpgroups: bool,
}

impl Chip {
    fn of(arch: &str) -> Chip {
        let before = arch.starts_with("sm_8");
        Chip {
            shared: if before { 160 << 10 } else { 224 << 10 },
            warpgroups: arch == "sm_90a",
        }
    }
}

/// The sources of a kernel for an architecture, by the number of rows they are for.
///
/// # Errors
/// What no template covers.
pub fn sources(kernel: &Kernel, symbols: &[Name], arch: &str) -> Result<Vec<Source>, EmitError> {
    let found = source::variants(kernel, symbols, Chip::of(arch));
    found.map_err(|why| wrong(kernel.template.name(), why))
}

impl Cuda {
    /// A generator for the target.
    ///
    /// # Errors
    /// A target that is no GPU's, or no NVRTC.
    pub fn new(target: &Target, nvrtc: Option<&Nvrtc>) -> Result<Cuda, EmitError> {
        let mut names = target.features.iter();
        let (Some(arch), None) = (names.next().cloned(), names.next()) else {
            return Err(wrong(
                "any",
                format!(
                    "target {target} is not one of the architectures that code is generated for"
                ),
            ));
        };
        let nvrtc = nvrtc.ok_or_else(|| {
            let why = format!(
                "compiling for {arch} needs NVRTC, NVIDIA's run-time compiler, and none is open"
            );
            wrong("any", why)
        })?;
        Ok(Cuda {
            arch,
            nvrtc: nvrtc.clone(),
        })
    }
}

impl Backend for Cuda {
    fn emit(&self, kernels: &[&Kernel], symbols: &[Name]) -> Result<Code, EmitError> {
        // Each text once: kernels of different graphs are often the same.
        let mut texts: Vec<(String, &'static str)> = vec![];
        let mut found = vec![];
        for kernel in kernels {
            let sources = sources(kernel, symbols, &self.arch)?;
            let numbered = sources.into_iter().map(|source| {
                let text = source.text();
                let known = texts.iter().position(|(t, _)| *t == text);
                let at = known.unwrap_or_else(|| {
                    texts.push((text, kernel.template.name()));
                    texts.len() - 1
                });
                (at, source)
            });
            found.push(numbered.collect::<Vec<_>>());
        }
        let cubins = texts.par_iter().map(|(text, template)| {
            let compiled = self.nvrtc.compile(text, &self.arch);
            compiled.map_err(|e| wrong(template, format!("{e}\nin\n{text}")))
        });
        let cubins = cubins.collect::<Result<Vec<_>, _>>()?;
        let mut code = Code::default();
        let entries: Vec<u64> = cubins
            .iter()
            .map(|cubin| {
                let entry = code.bytes.len().next_multiple_of(CUBIN_ALIGNMENT);
                code.bytes.resize(entry, 0);
                code.bytes.extend(&cubin.bytes);
                entry as u64
            })
            .collect();
        for sources in found {
            let variants = sources.iter().map(|(at, s)| s.variant(entries[*at]));
            code.kernels.push(Variants(variants.collect()));
        }
        Ok(code)
    }
}
