//! GPT-NeoX (arXiv 2204.06745) and Pythia (2304.01373): a part of each head rotated, both blocks side by side.

use super::{
    Architecture, Family, ModelError,
    attention::{Heads, Projections},
    blocks::{Activation, Mlp, Norm, positive},
    decoder::{Decoder, Names, Own},
    draft::Size,
    rope::Frequencies,
};
use crate::checkpoint::Config;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "gpt_neox",
    architectures: &["GPTNeoXForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let heads = Heads::multi(config, "hidden_size", "num_attention_heads")?;
    let mlp = Mlp::plain(
        ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
        Size::read(config, "intermediate_size")?,
        Activation::read(config, "hidden_act", "gelu")?,
    );
    let norm = Norm::layer(positive(config, "layer_norm_eps", 1e-5)?);
    let (vocabulary, hidden) = (
        Size::read(config, "vocab_size")?,
        Size::read(config, "hidden_size")?,
    );
    let rope = Frequencies::read(config, "full_attention", (1e4, 0.25), heads.dim)?;
    let mut decoder = Decoder {
        names: Names {
            backbone: "gpt_neox.",
            scope: "gpt_neox.",
            embedding: "embed_in",
            stem: "layers.",
            norm: Some("final_layer_norm"),
            head: "embed_out",
        },
        context: rope.context(config.usize_or("max_position_embeddings", 2048)?),
        ropes: vec![rope],
        layers: Own::alike(config.usize("num_hidden_layers")?, Some(0)),
        tied: config.bool_or("tie_word_embeddings", false)?,
        ..Decoder::new(vocabulary, hidden, norm, heads, mlp)
    };
    let layer = &mut decoder.layer;
    layer.attention.projections = Projections::Grouped("attention.query_key_value");
    layer.attention.output = "attention.dense";
    layer.parallel = config.bool_or("use_parallel_residual", true)?;
    let bias = config.bool_or("attention_bias", true)?;
    Ok(Box::new(decoder.attention_bias(bias)))
}
