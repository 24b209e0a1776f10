//! The options that say how a model is stored where it is compiled: weights, activations, the key/value cache. Knows names
//! and defaults; what they do is the compiler's.

use satura::compiler::{
    self,
    compress::{self, Rounding},
};

/// How a model is stored where it is compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Precision {
    /// How weights are stored where the model is compiled
    #[arg(long, value_enum, default_value_t)]
    weights: Weights,

    /// How activations are rounded that meet weights
    #[arg(long, value_enum, default_value_t)]
    activations: Activations,

    /// Weights (and activations) that share a scale, a multiple of 32; by default 64 for q8, 32 for q4
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
    /// 8 bits: those of products, rounded in groups that share a scale of f16
    Q8,
    /// 4 bits: the same; the head, which gives logits, has 8
    Q4,
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
    /// Rounded to bf16, as others run such models: larger steps on GPUs are faster
    Bf16,
    /// 8 bits, rounded in the same groups as weights of q8 or q4: products sum integers
    Q8,
}

impl Precision {
    /// Whether the model is not computed as its files have it.
    pub fn rounds(&self) -> bool {
        matches!(self.weights, Weights::Q8 | Weights::Q4)
            || self.activations == Activations::Bf16
            || self.cache_type != CacheType::F32
    }

    /// How keys and values are kept.
    pub fn cache(&self) -> compress::CacheType {
        match self.cache_type {
            CacheType::F32 => compress::CacheType::F32,
            CacheType::F16 => compress::CacheType::F16,
            CacheType::Bf16 => compress::CacheType::Bf16,
            CacheType::Int8 => compress::CacheType::Int8,
        }
    }

    /// How activations are rounded by themselves; those that share scales are rounded with weights.
    pub fn activations(&self) -> compress::ActivationType {
        match self.activations {
            Activations::Bf16 => compress::ActivationType::Bf16,
            Activations::F32 | Activations::Q8 => compress::ActivationType::F32,
        }
    }

    /// What the compiler is asked for of weights.
    pub fn weights(&self) -> anyhow::Result<compiler::Weights> {
        let activations = self.activations == Activations::Q8;
        // Scales cost little time where 64 integers share one; 4 bits need them closer.
        let (bits, group) = match self.weights {
            Weights::Q8 => (8, 64),
            Weights::Q4 => (4, 32),
            wide => {
                anyhow::ensure!(
                    !activations,
                    "--activations q8 is for weights of few bits; add --weights q8 or q4"
                );
                anyhow::ensure!(
                    self.group.is_none(),
                    "--group is for weights of few bits; add --weights q8 or q4"
                );
                return Ok(match wide {
                    Weights::F32 => compiler::Weights::F32,
                    _ => compiler::Weights::Stored,
                });
            }
        };
        let group = self.group.unwrap_or(group);
        anyhow::ensure!(
            group > 0 && group.is_multiple_of(32),
            "--group {group}: is no multiple of 32"
        );
        Ok(compiler::Weights::Rounded(Rounding {
            bits,
            group,
            activations,
        }))
    }
}
