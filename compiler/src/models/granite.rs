//! Granite 3 (IBM, 2024): Llama with multipliers of embeddings, scores, residuals and logits.

use super::{Architecture, Family, ModelError, blocks::positive, decoder::Decoder};
use crate::checkpoint::Config;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "granite",
    architectures: &["GraniteForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let bias = config.bool_or("attention_bias", false)?;
    let mut decoder = Decoder::read(config)?.attention_bias(bias);
    decoder.embedding_scale = positive(config, "embedding_multiplier", 1.0)?;
    decoder.layer.attention.scale = positive(config, "attention_multiplier", 1.0)?;
    decoder.layer.residual = positive(config, "residual_multiplier", 1.0)?;
    decoder.logits_scale = 1.0 / positive(config, "logits_scaling", 1.0)?;
    Ok(Box::new(decoder))
}
