//! One translation unit: a kernel's generated part between the texts that all kernels, and those of a template, share.

use super::Chip;
use crate::schedule::{Kernel, Template};
use ir::{
    DType,
    abi::Codec,
    artifact::{Tasks, TensorMap, Variant, Workers},
};

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// What it is, for messages: `gemv`, `flash`, ...
    pub name: &'static str,
    /// How many operands there are.
    pub operands: usize,
    /// Most rows that it is for.
    pub rows: u64,
    /// What differs from kernel to kernel.
    pub generated: String,
    /// What does not.
    pub skeleton: &'static [&'static str],
    /// How many tasks.
    pub tasks: Tasks,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory beyond what the text declares.
    pub shared: u32,
    /// Most blocks for each multiprocessor; 0 for a block a task.
    pub resident: u32,
    /// Bytes of scratch memory for each task.
    pub scratch: u64,
    /// Operands that are copied in tiles.
    pub maps: Vec<TensorMap>,
}

impl Source {
    /// A kernel for any number of rows that is wholly generated and needs no memory of its own.
    pub fn new(
        name: &'static str,
        operands: usize,
        generated: String,
        tasks: Tasks,
        threads: u32,
    ) -> Source {
        Source {
            name,
            operands,
            rows: u64::MAX,
            generated,
            skeleton: &[],
            tasks,
            threads,
            shared: 0,
            resident: 0,
            scratch: 0,
            maps: vec![],
        }
    }

    /// The whole text, as it is compiled.
    pub fn text(&self) -> String {
        let maps = match self.maps.len() {
            0 => String::new(),
            n => format!(" TensorMap maps[{n}];"),
        };
        let arguments = format!(
            "struct Args {{ char* p[{}]; const i64* dims; u32* counters; char* scratch; const char* inputs;{maps} }};\n",
            self.operands
        );
        let parts = [
            include_str!("kernels/prelude.cu"),
            include_str!("kernels/terms.cu"),
            include_str!("kernels/codecs.cu"),
            &arguments,
            &self.generated,
        ];
        let parts = parts.iter().chain(self.skeleton);
        parts.copied().collect::<Vec<_>>().join("\n")
    }

    /// The variant whose code is at `entry`.
    pub fn variant(&self, entry: u64) -> Variant {
        Variant {
            rows: self.rows,
            entry,
            tasks: self.tasks.clone(),
            workers: Workers::Blocks {
                threads: self.threads,
                shared: self.shared,
                resident: self.resident,
                scratch: self.scratch,
                maps: self.maps.clone(),
            },
        }
    }

    /// Instructions that its machine code must have, each by parts of its name: 16-byte loads of weights, products on
    /// the tensor cores.
    pub fn promises(&self) -> &'static [&'static [&'static str]] {
        match self.name {
            "gemv" | "exact" => &[&["LDG.E", ".128"]],
            "flash" => &[&["HMMA.16816.F32.BF16"]],
            "stream" | "tensor" | "warps" => &[&["HMMA.16816.F32.BF16"], &["LDGSTS.E", ".128"]],
            "warpgroups" | "warpgroup" => &[&["HGMMA.64x"], &["LDGSTS.E", ".128"]],
            "pipeline" => &[&["HGMMA.64x"], &["UTMALDG.3D"]],
            _ => &[],
        }
    }
}

/// The sources of one kernel of the schedule, by the number of rows they are for.
pub(super) fn variants(
    kernel: &Kernel,
    symbols: &[ir::Name],
    chip: Chip,
) -> Result<Vec<Source>, String> {
    let Kernel {
        template,
        views,
        inlined,
        elided,
    } = kernel;
    match template {
        Template::Map {
            body,
            scatter,
            round,
        } => super::map::emit(body, *scatter, *round, *elided, views, symbols),
        Template::Gemm {
            body,
            weights,
            columns,
            codec,
            rows: Codec::Plain(DType::F32 | DType::BF16),
        } => {
            let product = super::gemm::Product {
                body,
                weights: *weights,
                columns: *columns,
                codec: *codec,
                inlined: inlined.first(),
            };
            super::gemm::emit(product, views, symbols, chip)
        }
        Template::Gemm { rows, .. } => Err(format!("rows of {rows}")),
        Template::Attention(a) => super::attention::emit(a, inlined, views, symbols, chip),
    }
}
