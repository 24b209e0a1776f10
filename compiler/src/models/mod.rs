//! Model families: what config.json describes, as a program over the checkpoint's tensors. Refuses what it does not
//! cover from the config alone, before any weight is looked at; knows nothing of how a program is made fast.
//!
//! A family is one file that exports a [`Family`], and one line in [`FAMILIES`].

mod albert;
mod attention;
mod bert;
mod bias;
mod blocks;
mod bloom;
mod decoder;
mod distilbert;
mod draft;
mod electra;
mod encoder;
mod experts;
mod falcon;
mod gemma;
mod gpt2;
mod gpt_neox;
mod granite;
mod head;
mod layer;
mod llama;
mod mistral;
mod mixtral;
mod modernbert;
mod mpnet;
mod olmo2;
mod opt;
mod phi3;
mod pooling;
mod qwen;
mod roberta;
mod rope;
mod rotation;
mod smollm3;
mod stablelm;
mod usage;
mod vit;

use crate::checkpoint::{Checkpoint, CheckpointError, Config};
use ir::{Description, Image, Positions, Program, Task, TypeError};
use std::path::PathBuf;

/// Every family.
pub const FAMILIES: &[Family] = &[
    albert::FAMILY,
    bert::FAMILY,
    bloom::FAMILY,
    distilbert::FAMILY,
    electra::FAMILY,
    falcon::FAMILY,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3,
    gpt2::FAMILY,
    gpt_neox::FAMILY,
    granite::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    mixtral::FAMILY,
    modernbert::FAMILY,
    mpnet::FAMILY,
    olmo2::FAMILY,
    opt::FAMILY,
    phi3::FAMILY,
    qwen::QWEN2,
    qwen::QWEN3,
    qwen::QWEN3_MOE,
    roberta::FAMILY,
    smollm3::FAMILY,
    stablelm::FAMILY,
    vit::FAMILY,
];

/// Architectures that one file covers.
#[derive(Debug)]
pub struct Family {
    /// As in `model_type`.
    pub name: &'static str,
    /// Values of `architectures` that it builds.
    pub architectures: &'static [&'static str],
    /// Reads the config, refusing what the family does not cover.
    read: fn(&Config) -> Result<Box<dyn Architecture>, ModelError>,
}

/// A model as its config describes it, ready to be built over a checkpoint.
trait Architecture {
    /// The program of steps with room for `times` the tokens that CPUs want at once.
    fn build(
        &self,
        checkpoint: &Checkpoint,
        times: usize,
    ) -> Result<(Program, Outline), ModelError>;
}

/// What a family says of a model; the rest of its [`Description`] is the same for all.
struct Outline {
    task: Task,
    vocabulary: usize,
    token_types: usize,
    context: usize,
    layers: usize,
    hidden: usize,
    positions: Positions,
    image: Option<Image>,
}

/// Why a model cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The checkpoint, or its config, is at fault.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No family builds it.
    #[error(
        "{}: architecture `{found}` is not supported{remote}; supported are {}",
        file.display(),
        supported.join(", ")
    )]
    Architecture {
        /// The config file.
        file: PathBuf,
        /// The architecture it names.
        found: String,
        /// Why code that the checkpoint brings along does not help, where it does; else empty.
        remote: &'static str,
        /// Every architecture there is.
        supported: Vec<&'static str>,
    },
    /// The checkpoint has a weight in a layer that the config does not lead to.
    #[error(
        "{}: tensor `{tensor}` has no place in the model that config.json describes; the config belongs to another \
         checkpoint, or sets fewer layers or biases than this one has",
        file.display()
    )]
    Unplaced {
        /// The file that holds it.
        file: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// Sizes that pass alone do not fit together.
    #[error("the model does not type-check: {0}")]
    Type(#[from] TypeError),
}

/// The family that builds the model that `config` describes.
///
/// # Errors
/// The architecture is unknown, or an option is not covered; the message names it.
pub fn supported(config: &Config) -> Result<&'static Family, ModelError> {
    let found = config.architecture()?;
    let family = FAMILIES
        .iter()
        .find(|f| f.architectures.contains(&found))
        .ok_or_else(|| ModelError::Architecture {
            file: config.file().to_path_buf(),
            found: found.to_string(),
            remote: if config.has_remote_code() {
                " (the code that it brings along is never run)"
            } else {
                ""
            },
            supported: FAMILIES
                .iter()
                .flat_map(|f| f.architectures)
                .copied()
                .collect(),
        })?;
    if config.quantization()?.is_some() {
        let expected = "nothing: weights are read as f32, f16 or bf16 only";
        return Err(config.invalid("quantization_config", expected).into());
    }
    usage::classes(config)?;
    (family.read)(config)?;
    Ok(family)
}

/// The program of the model that `config` describes, over the tensors of `checkpoint`, and what it is to its user.
/// Weights are named as in the checkpoint's files, and typed as stored there. A checkpoint of sentence-transformers that
/// pools rows is the bare model, whatever head its config names.
///
/// # Errors
/// As [`supported`]; or a tensor is missing, unplaced, or of another shape than the config implies.
pub fn build(
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<(Program, Description), ModelError> {
    build_wide(config, checkpoint, 1)
}

/// The same, of steps with room for so many times the tokens that CPUs want at once.
///
/// # Errors
/// As [`build`].
pub fn build_wide(
    config: &Config,
    checkpoint: &Checkpoint,
    times: usize,
) -> Result<(Program, Description), ModelError> {
    let architecture = pooling::architecture(config, checkpoint)?;
    let config = &config.with(
        "architectures",
        [architecture.as_str()].into_iter().collect(),
    );
    let family = supported(config)?;
    let (program, mut outline) = (family.read)(config)?.build(checkpoint, times)?;
    if let Task::SequenceClassification { classes, .. } = &mut outline.task {
        *classes = usage::classes(config)?;
    }
    let sizes = program
        .weights
        .values()
        .map(|ty| ty.numel().size().unwrap_or(0));
    let description = Description {
        architecture,
        task: outline.task,
        vocabulary: outline.vocabulary,
        token_types: outline.token_types,
        context: outline.context,
        layers: outline.layers,
        hidden: outline.hidden,
        parameters: sizes.map(|n| n as u64).sum(),
        positions: outline.positions,
        eos: usage::eos(config, checkpoint)?,
        generation: usage::generation(config, checkpoint)?,
        chat: usage::chat(checkpoint)?,
        image: usage::image(checkpoint, outline.image)?,
        // Known when all weights have been read.
        source: [0; 32],
    };
    Ok((program, description))
}
