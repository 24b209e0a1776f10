//! Qwen 2 (arXiv 2407.10671): Llama with biases on queries, keys and values. Qwen 3 (arXiv 2505.09388): norms on each
//! head of queries and keys instead.

use super::{Architecture, Family, ModelError, decoder::Decoder};
use crate::checkpoint::Config;

/// See the module's text; also what Qwen 2.5 is.
pub(super) const QWEN2: Family = Family {
    name: "qwen2",
    architectures: &["Qwen2ForCausalLM"],
    read: |config| {
        Ok(Box::new(Decoder {
            input_bias: true,
            ..read(config)?
        }) as Box<dyn Architecture>)
    },
};

/// See the module's text.
pub(super) const QWEN3: Family = Family {
    name: "qwen3",
    architectures: &["Qwen3ForCausalLM"],
    read: |config| {
        // Where absent it is 128, not what the other sizes imply: better asked for than guessed.
        config.usize("head_dim")?;
        let bias = config.bool_or("attention_bias", false)?;
        Ok(Box::new(Decoder {
            input_bias: bias,
            output_bias: bias,
            head_norm: true,
            ..read(config)?
        }) as Box<dyn Architecture>)
    },
};

/// The decoder, with a window on the layers that the config lists, or on those from `max_window_layers` on.
fn read(config: &Config) -> Result<Decoder, ModelError> {
    let mut decoder = Decoder::read(config)?;
    let window = match config.bool_or("use_sliding_window", false)? {
        true => config.opt_usize("sliding_window")?,
        false => None,
    };
    let layers = decoder.windows.len();
    let types = config.layer_types(layers)?;
    let first = config.usize_or("max_window_layers", 28)?;
    for (i, own) in decoder.windows.iter_mut().enumerate() {
        let slides = match types.as_ref().map(|types| types[i]) {
            None => i >= first,
            Some("sliding_attention") => true,
            Some("full_attention") => false,
            Some(_) => {
                let known = "a list of full_attention and sliding_attention";
                return Err(config.invalid("layer_types", known).into());
            }
        };
        *own = window.filter(|_| slides);
    }
    Ok(decoder)
}
