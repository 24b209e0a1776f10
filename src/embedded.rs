//! The default model, built into the program: docs-llama-4m, whose files lie under `examples/`. Knows only its bytes.

use compiler::checkpoint::{Checkpoint, CheckpointError};
use std::borrow::Cow;

/// What it is called in messages.
pub const NAME: &str = "docs-llama-4m (embedded)";

const FILES: &[(&str, &[u8])] = &[
    (
        "config.json",
        include_bytes!("../examples/docs-llama-4m/config.json"),
    ),
    (
        "generation_config.json",
        include_bytes!("../examples/docs-llama-4m/generation_config.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../examples/docs-llama-4m/model.safetensors"),
    ),
    (
        "tokenizer.json",
        include_bytes!("../examples/docs-llama-4m/tokenizer.json"),
    ),
    (
        "tokenizer_config.json",
        include_bytes!("../examples/docs-llama-4m/tokenizer_config.json"),
    ),
];

/// The checkpoint of the default model: a Llama of 3.9 million parameters, trained on technical documentation.
///
/// # Errors
/// None on a sound build: the files are part of it.
pub fn embedded() -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_files(
        FILES
            .iter()
            .map(|(name, bytes)| (name.to_string(), Cow::Borrowed(*bytes))),
    )
}
