//! The options that say how a model is stored where it is compiled: weights, activations, the key/value cache. Knows names
//! and defaults; what they do is the compiler's.

use satura::{
    compiler::{
        self,
        compress::{self, Rounding},
    },
    ir::{DType, Element},
};

/// How a model is stored where it is compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct PrecisionArgs {
    /// How weights are stored where the model is compiled
    #[arg(long, value_enum, default_value_t)]
    weights: Weights,

    /// How activations are rounded that meet weights
    #[arg(long, value_enum, default_value_t)]
    activations: Activations,

    /// Weights (and activations) that share a scale, a multiple of 32; by default 32 of 4 bits and fewer, 64 of more
    #[arg(long, value_name = "N")]
    group: Option<u32>,

    /// How keys and values of earlier tokens are kept where the model is compiled
    #[arg(long, value_enum, default_value_t)]
    cache_type: CacheType,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Weights {
    /// As in the model's files, e.g. bf16
    #[default]
    Stored,
    /// Widened to f32: larger, but nothing is widened while running
    F32,
    /// Those of products rounded to bf16: of f32 half the bytes; with --activations bf16 products are faster where the processor
    /// multiplies such pairs
    Bf16,
    /// Those of products rounded to f16: the same, more precise, for weights within f16's range
    F16,
    /// 8 bits: those of products, rounded in groups that share a scale of f16
    Q8,
    /// 7 bits, each in a byte: with --activations q8 faster than 8 where the processor shows AVX2 alone
    Q7,
    /// 4 bits: the same; the head, which gives logits, has 8
    Q4,
    /// 3 bits: the same
    Q3,
    /// 8 bits, with a zero point for each group
    U8,
    /// 4 bits, with a zero point for each group; the head has 8
    U4,
    /// 3 bits, with a zero point for each group; the head has 8
    U3,
    /// 16 bits: of f32 half the bytes, nearly exact
    Q16,
    /// Floats of 8 bits (E4M3), in groups that share a scale of f16
    F8,
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum CacheType {
    /// As they are computed
    #[default]
    F32,
    /// Rounded to f16: half the memory, and a long context is read in half the time
    F16,
    /// Rounded to bf16: the same, less precise, for values beyond f16's range
    Bf16,
    /// Rounded to 8 bits, each head of a token with a scale: a quarter of the memory
    Int8,
}

/// How activations are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Activations {
    /// As they are computed
    #[default]
    F32,
    /// Rounded to bf16, as others run such models: larger steps are faster, on GPUs and, where weights are bf16, on processors
    /// with AVX-512 BF16
    Bf16,
    /// 8 bits, rounded in the same groups as weights of few bits: products sum integers
    Q8,
    /// 16 bits: the same, nearly exact
    Q16,
}

impl PrecisionArgs {
    /// What the compiler is asked for.
    pub fn get(&self) -> anyhow::Result<compiler::Precision> {
        Ok(compiler::Precision {
            weights: self.weights()?,
            activations: self.activations(),
            cache: self.cache(),
        })
    }

    fn cache(&self) -> compress::CacheType {
        match self.cache_type {
            CacheType::F32 => compress::CacheType::F32,
            CacheType::F16 => compress::CacheType::F16,
            CacheType::Bf16 => compress::CacheType::Bf16,
            CacheType::Int8 => compress::CacheType::Int8,
        }
    }

    /// Those that are rounded by themselves; those that share scales are rounded with weights.
    fn activations(&self) -> compress::ActivationType {
        match self.activations {
            Activations::Bf16 => compress::ActivationType::Bf16,
            Activations::F32 | Activations::Q8 | Activations::Q16 => compress::ActivationType::F32,
        }
    }

    fn weights(&self) -> anyhow::Result<compiler::Weights> {
        let rows = match self.activations {
            Activations::Q8 => Some(Element::Q8),
            Activations::Q16 => Some(Element::Q16),
            Activations::F32 | Activations::Bf16 => None,
        };
        let Some(element) = self.weights.element() else {
            anyhow::ensure!(
                rows.is_none() && self.group.is_none(),
                "{} is for weights in groups; add --weights q8 or another of those",
                if rows.is_some() {
                    "--activations q8 or q16"
                } else {
                    "--group"
                }
            );
            return Ok(match self.weights {
                Weights::F32 => compiler::Weights::F32,
                Weights::Bf16 => compiler::Weights::Float(DType::BF16),
                Weights::F16 => compiler::Weights::Float(DType::F16),
                _ => compiler::Weights::Stored,
            });
        };
        // Scales cost little time where 64 codes share one; few bits need them closer.
        let group = self
            .group
            .unwrap_or(if element.bits() <= 4 { 32 } else { 64 });
        anyhow::ensure!(
            group > 0 && group.is_multiple_of(32),
            "--group {group}: is no multiple of 32"
        );
        if let Some(rows) = rows {
            anyhow::ensure!(
                element.meets(rows, group),
                "--activations {rows}: sums of their products with --weights {element} in groups of {group} are not exact \
                 integers of 32 bits; take fewer bits or smaller groups"
            );
        }
        Ok(compiler::Weights::Rounded(Rounding {
            element,
            group,
            activations: rows,
        }))
    }
}

impl Weights {
    /// What they are rounded to, where they share scales.
    fn element(self) -> Option<Element> {
        let zero = |bits| Element::Int { bits, zero: true };
        Some(match self {
            Weights::Stored | Weights::F32 | Weights::Bf16 | Weights::F16 => return None,
            Weights::Q8 => Element::Q8,
            Weights::Q7 => Element::Q7,
            Weights::Q4 => Element::Q4,
            Weights::Q3 => Element::Q3,
            Weights::U8 => zero(8),
            Weights::U4 => zero(4),
            Weights::U3 => zero(3),
            Weights::Q16 => Element::Q16,
            Weights::F8 => Element::E4M3,
        })
    }
}
