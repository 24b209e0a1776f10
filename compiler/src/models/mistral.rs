//! Mistral (arXiv 2310.06825): Llama with a sliding window.

use super::{Architecture, Family, ModelError, decoder::Decoder};
use crate::checkpoint::Config;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "mistral",
    architectures: &["MistralForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = Decoder::read(config)?;
    let window = config.opt_usize("sliding_window")?;
    Ok(Box::new(Decoder {
        windows: vec![window; decoder.windows.len()],
        ..decoder
    }))
}
