//! BLOOM (arXiv 2211.05100): scores that fall with distance in place of positions, and a norm of embeddings.

use super::{
    Architecture, Family, ModelError,
    attention::{Heads, Projections},
    bias::{Alibi, Bias},
    blocks::{Mlp, Norm, positive},
    decoder::{Decoder, Names, Own},
    draft::Size,
};
use crate::checkpoint::Config;
use ir::{Positions, ops::GeluTanh};

/// Where nothing bounds a sequence but memory.
const CONTEXT: usize = 2048;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "bloom",
    architectures: &["BloomForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let key = "apply_residual_connection_post_layernorm";
    if config.bool_or(key, false)? {
        return Err(config.invalid(key, "false").into());
    }
    let width = config.any(&["hidden_size", "n_embed"]);
    let count = config.any(&["n_head", "num_attention_heads"]);
    let hidden = Size::read(config, width)?;
    let heads = Heads::multi(config, width, count)?;
    let inner = Size::new(4 * hidden.n, format!("four times {width}"));
    let mlp = Mlp::plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"], inner, GeluTanh);
    let norm = Norm::layer(positive(config, "layer_norm_epsilon", 1e-5)?);
    let layers = config.usize(config.any(&["n_layer", "num_hidden_layers"]))?;
    let mut decoder = Decoder {
        names: Names::transformer("word_embeddings"),
        embedding_norm: Some("word_embeddings_layernorm"),
        context: config.usize_or("seq_length", CONTEXT)?,
        layers: Own::alike(layers, None),
        tied: config.bool_or("tie_word_embeddings", true)?,
        numbering: Positions::Unmasked,
        ..Decoder::new(Size::read(config, "vocab_size")?, hidden, norm, heads, mlp)
    };
    let attention = &mut decoder.layer.attention;
    attention.projections = Projections::Grouped("self_attention.query_key_value");
    attention.output = "self_attention.dense";
    attention.bias = Some(Bias::Alibi(Alibi {
        scaled: false,
        rounded: false,
    }));
    Ok(Box::new(decoder.attention_bias(true)))
}
