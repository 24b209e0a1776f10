//! What a model is to its user, beyond its program: the task, the limits, the words its outputs stand for. Written
//! into the artifact, so that running one needs nothing else.

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
    /// `logits: f32[B, labels]`.
    SequenceClassification {
        /// Names of the classes.
        labels: Vec<String>,
    },
    /// `last_hidden_state: f32[T, hidden]`, `pooler_output: f32[B, hidden]` where the model has a pooler, and
    /// `embedding: f32[B, hidden]` where a pooling is configured.
    Embedding {
        /// Whether embeddings are scaled to unit length.
        normalize: bool,
    },
}

/// How positions are numbered where the caller gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Positions {
    /// `0, 1, 2, ...` in the sequence, padding included.
    Index,
    /// RoBERTa: tokens that are not `pad` are counted from `pad + 1`; `pad` itself has position `pad`.
    NonPadding {
        /// Id of the padding token.
        pad: i32,
    },
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
    /// Digest of the checkpoint this was compiled from (blake3); zero until it is compiled.
    pub source: [u8; 32],
}
