//! The CPU backend: Cranelift code for loop nests, fused elementwise work, norms and glue. Register tiles of gemm and
//! attention are the runtime's, reached through its function table ([`ir::abi::KernelTable`]), because Cranelift's
//! x86 vectors end at 128 bits.

mod attention;
mod elements;
mod function;
mod functions;
mod gemm;
mod lanes;
mod map;
mod rows;

use super::{Backend, Code, EmitError, Unit};
use crate::schedule::Template;
use cranelift_codegen::{
    Context,
    control::ControlPlane,
    ir::{AbiParam, Signature, types::I64},
    isa::{self, CallConv, OwnedTargetIsa},
    settings::{self, Configurable},
};
use cranelift_frontend::FunctionBuilderContext;
use function::Function;
use ir::{
    Name, Target,
    artifact::{Variant, Variants, Workers},
};

/// Alignment of each kernel's code, in bytes.
const CODE_ALIGNMENT: usize = 64;

/// Generates code for one CPU target.
pub struct Cpu {
    isa: OwnedTargetIsa,
    fma: bool,
}

/// Features of a [`Target`] and what Cranelift calls them.
const FEATURES: &[(&str, &str)] = &[
    ("sse3", "has_sse3"),
    ("ssse3", "has_ssse3"),
    ("sse4.1", "has_sse41"),
    ("sse4.2", "has_sse42"),
    ("popcnt", "has_popcnt"),
    ("avx", "has_avx"),
    ("avx2", "has_avx2"),
    ("bmi1", "has_bmi1"),
    ("bmi2", "has_bmi2"),
    ("fma", "has_fma"),
    ("lzcnt", "has_lzcnt"),
];

impl Cpu {
    /// A generator for the target.
    ///
    /// # Errors
    /// When the architecture is not x86-64, or lacks SSE 4.1, without which code would need relocations.
    pub fn new(target: &Target) -> Result<Cpu, EmitError> {
        let wrong = |why: String| EmitError::Target {
            backend: "cpu",
            why,
        };
        if target.arch != "x86_64" || !target.has("sse4.1") {
            return Err(wrong(format!(
                "target {target} is not x86-64 with SSE 4.1 or newer"
            )));
        }
        let mut flags = settings::builder();
        // Program order is kept: `opt_level=speed` hoists loads of hand-scheduled vector code and spills them.
        for (name, value) in [
            ("opt_level", "none"),
            ("is_pic", "true"),
            ("use_colocated_libcalls", "false"),
            ("unwind_info", "false"),
            (
                "enable_verifier",
                if cfg!(debug_assertions) {
                    "true"
                } else {
                    "false"
                },
            ),
        ] {
            flags
                .set(name, value)
                .map_err(|e| wrong(format!("{name}: {e}")))?;
        }
        let mut builder = isa::lookup_by_name("x86_64").map_err(|e| wrong(e.to_string()))?;
        for (feature, flag) in FEATURES {
            if target.has(feature) {
                builder
                    .enable(flag)
                    .map_err(|e| wrong(format!("{flag}: {e}")))?;
            }
        }
        let isa = builder
            .finish(settings::Flags::new(flags))
            .map_err(|e| wrong(e.to_string()))?;
        Ok(Cpu {
            isa,
            fma: target.has("fma"),
        })
    }

    fn compile(&self, unit: &Unit<'_>, symbols: &[Name]) -> Result<(Vec<u8>, Variant), EmitError> {
        let kernel = unit.kernel;
        let wrong = |why: String| unit.refused("cpu", why);
        let mut context = Context::new();
        context.func.signature = Signature::new(CallConv::SystemV);
        context.func.signature.params = vec![AbiParam::new(I64); 4];
        let mut frontend = FunctionBuilderContext::new();
        let mut f = Function::new(&mut context.func, &mut frontend, symbols, self.fma);
        let (tasks, grain) = match &kernel.template {
            Template::Map {
                body,
                scatter,
                round,
            } => map::emit(&mut f, body, *scatter, *round, &kernel.views),
            Template::Gemm {
                body,
                weights,
                columns,
                codec,
                rows,
            } => {
                let product = gemm::Product {
                    weights: *weights,
                    columns: *columns,
                    codec: *codec,
                    rows: *rows,
                };
                gemm::emit(&mut f, body, product, &kernel.views)
            }
            Template::Attention(a) => attention::emit(&mut f, a, &kernel.views),
        }
        .map_err(wrong)?;
        f.finish(self.isa.frontend_config());
        let compiled = context
            .compile(&*self.isa, &mut ControlPlane::default())
            .map_err(|e| wrong(format!("Cranelift: {:?}", e.inner)))?;
        if let [first, ..] = compiled.buffer.relocs() {
            return Err(wrong(format!("the code needs a relocation: {first:?}")));
        }
        let variant = Variant {
            rows: u64::MAX,
            entry: 0,
            tasks,
            workers: Workers::Threads { grain },
        };
        Ok((compiled.code_buffer().to_vec(), variant))
    }
}

impl Backend for Cpu {
    fn emit(&self, kernels: &[Unit<'_>], symbols: &[Name]) -> Result<Code, EmitError> {
        let mut code = Code::default();
        for unit in kernels {
            let (bytes, variant) = self.compile(unit, symbols)?;
            // int3 between kernels: a jump astray traps.
            code.bytes
                .resize(code.bytes.len().next_multiple_of(CODE_ALIGNMENT), 0xcc);
            code.kernels.push(Variants(vec![Variant {
                entry: code.bytes.len() as u64,
                ..variant
            }]));
            code.bytes.extend(bytes);
        }
        Ok(code)
    }
}
