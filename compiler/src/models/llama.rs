//! Llama (arXiv 2302.13971, 2407.21783).

use super::{Architecture, Family, ModelError, decoder::Decoder};
use crate::checkpoint::Config;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "llama",
    architectures: &["LlamaForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let bias = config.bool_or("attention_bias", false)?;
    Ok(Box::new(Decoder::read(config)?.attention_bias(bias)))
}
