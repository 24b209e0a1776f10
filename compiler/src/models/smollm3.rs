//! SmolLM 3 (Hugging Face, 2025): Llama with layers that turn nothing by position.

use super::{
    Architecture, Family, ModelError,
    decoder::{Decoder, asked, slides},
};
use crate::checkpoint::Config;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "smollm3",
    architectures: &["SmolLM3ForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let bias = config.bool_or("attention_bias", false)?;
    asked(config)?;
    let mut decoder = Decoder::turning(config, 2e6)?.attention_bias(bias);
    decoder.tied = config.bool_or("tie_word_embeddings", true)?;
    let turns = turns(config, decoder.layers.len())?;
    for (own, turns) in decoder.layers.iter_mut().zip(&turns) {
        own.rope = own.rope.filter(|_| *turns);
    }
    let window = match config.bool_or("use_sliding_window", false)? {
        true => config.opt_usize("sliding_window")?,
        false => None,
    };
    let slides = slides(config, turns.len(), |i| !turns[i])?;
    Ok(Box::new(decoder.windowed(window, slides)))
}

/// For each layer whether positions turn its queries and keys: `no_rope_layers`, in which 1 says that they do, or all
/// but every `no_rope_layer_interval`th.
fn turns(config: &Config, layers: usize) -> Result<Vec<bool>, ModelError> {
    const KEY: &str = "no_rope_layers";
    let Some(list) = config.opt_f64s(KEY)? else {
        const EVERY: &str = "no_rope_layer_interval";
        let every = config.usize_or(EVERY, 4)?;
        if every == 0 {
            return Err(config.invalid(EVERY, "a positive integer").into());
        }
        return Ok((1..=layers).map(|i| i % every != 0).collect());
    };
    if list.len() != layers {
        let expected = format!("a list of {layers} numbers, one a layer");
        return Err(config.invalid(KEY, expected).into());
    }
    Ok(list.iter().map(|x| *x != 0.0).collect())
}
