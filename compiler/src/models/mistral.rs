//! Mistral (arXiv 2310.06825): Llama with a sliding window.

use super::{
    Architecture, Family, ModelError,
    decoder::{Decoder, asked},
};
use crate::checkpoint::Config;
use std::iter::repeat;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "mistral",
    architectures: &["MistralForCausalLM"],
    read: |config| Ok(Box::new(read(config, Some(4096), 1e4)?) as Box<dyn Architecture>),
};

/// The decoder, with `window` and the rotation's base `theta` where the config is silent.
pub(super) fn read(
    config: &Config,
    window: Option<usize>,
    theta: f64,
) -> Result<Decoder, ModelError> {
    asked(config)?;
    let window = match window {
        Some(default) => config.usize_unless_null("sliding_window", default)?,
        None => config.opt_usize("sliding_window")?,
    };
    Ok(Decoder::turning(config, theta)?.windowed(window, repeat(true)))
}
