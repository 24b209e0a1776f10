//! One translation unit: a kernel's generated part between the texts that all kernels, and those of a template, share.

use crate::schedule::{Round, Template};
use ir::{
    DType,
    abi::Codec,
    artifact::{Tasks, Variant, Workers},
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
        }
    }

    /// The whole text, as it is compiled.
    pub fn text(&self) -> String {
        let arguments = format!(
            "struct Args {{ char* p[{}]; const i64* dims; u32* counters; char* scratch; }};\n",
            self.operands
        );
        let parts = [
            include_str!("kernels/prelude.cu"),
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
            },
        }
    }

    /// Instructions that its machine code must have, each by parts of its name: 16-byte loads of weights, products on
    /// the tensor cores.
    pub fn promises(&self) -> &'static [&'static [&'static str]] {
        match self.name {
            "gemv" | "exact" => &[&["LDG.E", ".128"]],
            "tensor" => &[&["HMMA.16816.F32.BF16"], &["LDGSTS.E", ".128"]],
            _ => &[],
        }
    }
}

/// The sources of one kernel of the schedule, by the number of rows they are for.
pub fn variants(
    template: &Template,
    views: &[crate::schedule::View],
    symbols: &[ir::Name],
) -> Result<Vec<Source>, String> {
    match template {
        Template::Map {
            round: round @ (Round::Codes(_) | Round::Values(_)),
            ..
        } => Err(format!(
            "rounds to {round:?}; on GPUs nothing is rounded to few bits yet"
        )),
        Template::Map { body, scatter, .. } => {
            super::map::emit(body, *scatter, views, symbols).map(|s| vec![s])
        }
        Template::Gemm {
            body,
            weights,
            columns,
            codec: Codec::Plain(codec),
            rows: Codec::Plain(DType::F32),
        } => super::gemm::emit(body, *weights, *columns, *codec, views, symbols),
        Template::Gemm { codec, rows, .. } => Err(format!(
            "rows of {rows:?} and weights of {codec:?}; on GPUs weights are f32, bf16 or f16 so far"
        )),
        Template::Attention(a) => super::attention::emit(a, views, symbols),
    }
}
