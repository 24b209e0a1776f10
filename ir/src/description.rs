//! What a model is to its user, beyond its program: the task, the limits, the words its outputs stand for. Written
//! into the artifact, so that running one needs nothing else.

use crate::Float;
use serde::{Deserialize, Serialize};

/// What a model's outputs mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// `logits: f32[L, vocabulary]` of the next token; has a key/value cache.
    CausalLm,
    /// `logits: f32[T, vocabulary]` of the token at each position.
    MaskedLm,
    /// `logits: f32[T, labels]`.
    TokenClassification {
        /// Names of the classes.
        labels: Vec<String>,
    },
    /// `logits: f32[T, 2]`: whether an answer starts, and whether it ends, at each token.
    QuestionAnswering,
    /// `logits: f32[B, labels]`.
    SequenceClassification {
        /// Names of the classes.
        labels: Vec<String>,
        /// What the logits say of them.
        classes: Classes,
    },
    /// `last_hidden_state: f32[T, hidden]`, `pooler_output: f32[B, hidden]` where the model has a pooler, and
    /// `embedding: f32[B, hidden]` where a pooling is configured.
    Embedding {
        /// Whether embeddings are scaled to unit length.
        normalize: bool,
    },
}

/// What logits say of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Classes {
    /// One of them holds: their probabilities add up to one.
    Exclusive,
    /// Any number of them hold: each has a probability of its own.
    Independent,
    /// They are numbers, and the logits are these.
    Numbers,
}

/// How positions are numbered where the caller gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Positions {
    /// `0, 1, 2, ...` in the sequence, padding included.
    Index,
    /// `0, 1, 2, ...` among the tokens that are not masked.
    Unmasked,
    /// RoBERTa: tokens that are not `pad` are counted from `pad + 1`; `pad` itself has position `pad`.
    NonPadding {
        /// Id of the padding token.
        pad: i32,
    },
}

/// How a conversation becomes the text that the model continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    /// Jinja, as `apply_chat_template` of the reference renders it.
    pub template: String,
    /// Special tokens that templates call by name, such as `bos_token`, and what they are.
    pub tokens: Vec<(String, String)>,
}

/// How the model's authors generate with it, where nobody says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Sampling temperature; none where the most probable token is taken.
    pub temperature: Option<Float>,
    /// See the sampler's option.
    pub top_k: Option<u32>,
    /// See the sampler's option.
    pub top_p: Option<Float>,
    /// See the sampler's option.
    pub min_p: Option<Float>,
    /// See the sampler's option.
    pub repetition_penalty: Option<Float>,
    /// New tokens at most.
    pub max_tokens: Option<u32>,
    /// Tokens of prompt and continuation at most, where `max_tokens` is silent.
    pub max_length: Option<u32>,
    /// Texts that end a generation.
    pub stop: Vec<String>,
    /// What else they ask for, which is not done: such as `num_beams = 4`.
    pub ignored: Vec<String>,
}

/// How an image becomes a model's input: resized, scaled, normalised, and cut into square patches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// In pixels, a multiple of `patch`.
    pub height: usize,
    /// In pixels, a multiple of `patch`.
    pub width: usize,
    /// 3: red, green and blue.
    pub channels: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// How other sizes are made to fit.
    pub filter: Filter,
    /// What values from 0 to 255 are multiplied by.
    pub scale: Float,
    /// Of each channel: subtracted.
    pub mean: Vec<Float>,
    /// Of each channel: divided by.
    pub std: Vec<Float>,
}

impl Image {
    /// Patches.
    pub fn patches(&self) -> usize {
        (self.height / self.patch) * (self.width / self.patch)
    }

    /// Numbers in a patch.
    pub fn numbers(&self) -> usize {
        self.channels * self.patch * self.patch
    }
}

/// How an image is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Lanczos of three lobes.
    Lanczos,
    /// A triangle.
    Bilinear,
    /// Cubic (Catmull-Rom).
    Bicubic,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// As in config.json, e.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// See [`Task`].
    pub task: Task,
    /// Token ids are below this.
    pub vocabulary: usize,
    /// Token types (segments) are below this; 0 where the model has none.
    pub token_types: usize,
    /// Longest sequence.
    pub context: usize,
    /// Blocks.
    pub layers: usize,
    /// Width of a block's input.
    pub hidden: usize,
    /// Parameters in the checkpoint.
    pub parameters: u64,
    /// See [`Positions`].
    pub positions: Positions,
    /// Ids that end a generation.
    pub eos: Vec<u32>,
    /// See [`Generation`].
    pub generation: Generation,
    /// The form of conversations, where the model has one.
    pub chat: Option<Chat>,
    /// What it sees, where that is images rather than text.
    pub image: Option<Image>,
    /// Digest of the checkpoint this was compiled from (blake3); zero until it is compiled.
    pub source: [u8; 32],
}
