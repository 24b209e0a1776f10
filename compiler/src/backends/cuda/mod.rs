//! The CUDA backend: header-free C++ with inline PTX, a translation unit for each variant of a kernel, compiled by NVRTC
//! to cubins. Bodies are inlined as on the CPU; loops and tiles are skeletons in `kernels/*.cu`, which read generated
//! constants and functions. Needs no GPU and no driver.

mod attention;
mod cubins;
mod expression;
mod gemm;
mod map;
mod nvrtc;
pub mod reading;
mod rotate;
mod rows;
mod source;
mod text;

pub use cubins::{Cubins, Key};
pub use nvrtc::{Cubin, Nvrtc, NvrtcError};
pub use source::Source;

use super::{Backend, Code, EmitError, Unit};
use indexmap::IndexMap;
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

/// What the backend is called in messages.
const NAME: &str = "cuda";

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
pub fn sources(unit: &Unit<'_>, symbols: &[Name], arch: &str) -> Result<Vec<Source>, EmitError> {
    let found = source::variants(unit.kernel, symbols, Chip::of(arch));
    found.map_err(|why| unit.refused(NAME, why))
}

/// What NVRTC says, and the text that it says it of, line by line as it counts them.
fn complaint(error: &NvrtcError, source: &Source, text: &str) -> String {
    let numbered = text
        .lines()
        .zip(1..)
        .map(|(line, n)| format!("{n:>5}  {line}"));
    let text: Vec<String> = numbered.collect();
    let name = source.name;
    format!(
        "{error}\nin the text of its variant {name}:\n{}",
        text.join("\n")
    )
}

impl Cuda {
    /// A generator for the target.
    ///
    /// # Errors
    /// A target that is no GPU's, or no NVRTC.
    pub fn new(target: &Target, nvrtc: Option<&Nvrtc>) -> Result<Cuda, EmitError> {
        let wrong = |why: String| EmitError::Target { backend: NAME, why };
        let mut names = target.features.iter();
        let (Some(arch), None) = (names.next().cloned(), names.next()) else {
            return Err(wrong(format!(
                "target {target} is not one of the architectures that code is generated for"
            )));
        };
        let nvrtc = nvrtc.ok_or_else(|| {
            wrong(format!(
                "compiling for {arch} needs NVRTC, NVIDIA's run-time compiler, and none is open"
            ))
        })?;
        Ok(Cuda {
            arch,
            nvrtc: nvrtc.clone(),
        })
    }
}

impl Backend for Cuda {
    fn emit(&self, kernels: &[Unit<'_>], symbols: &[Name]) -> Result<Code, EmitError> {
        // Each text once, under the first kernel that has it: kernels of different graphs are often the same.
        let mut texts: IndexMap<String, (&Unit<'_>, Source)> = IndexMap::new();
        let mut found = vec![];
        for unit in kernels {
            let sources = sources(unit, symbols, &self.arch)?.into_iter();
            let numbered = sources.map(|source| {
                let entry = texts.entry(source.text());
                let at = entry.index();
                entry.or_insert_with(|| (unit, source.clone()));
                (at, source)
            });
            found.push(numbered.collect::<Vec<_>>());
        }
        let texts: Vec<_> = texts.into_iter().collect();
        let cubins = texts.par_iter().map(|(text, (unit, source))| {
            let compiled = self.nvrtc.cubin(text, &self.arch);
            compiled.map_err(|e| unit.refused(NAME, complaint(&e, source, text)))
        });
        let cubins = cubins.collect::<Result<Vec<_>, _>>()?;
        let mut code = Code {
            toolkit: Some(self.nvrtc.version()),
            ..Code::default()
        };
        let entries: Vec<u64> = cubins
            .iter()
            .map(|cubin| {
                let entry = code.bytes.len().next_multiple_of(CUBIN_ALIGNMENT);
                code.bytes.resize(entry, 0);
                code.bytes.extend(cubin);
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
