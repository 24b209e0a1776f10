//! GPT-2 (Radford et al., 2019): learned positions, projections stored the other way round.

use super::{
    Architecture, Family, ModelError,
    attention::{Heads, Projections},
    blocks::{Activation, Mlp, Norm, positive},
    decoder::{Decoder, Learned, Names, Own},
    draft::Size,
    layer::Norms,
};
use crate::checkpoint::Config;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "gpt2",
    architectures: &["GPT2LMHeadModel"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    for (key, expected) in [
        ("scale_attn_by_inverse_layer_idx", false),
        ("add_cross_attention", false),
        ("scale_attn_weights", true),
    ] {
        if config.bool_or(key, expected)? != expected {
            return Err(config.invalid(key, expected.to_string()).into());
        }
    }
    let width = config.any(&["n_embd", "hidden_size"]);
    let count = config.any(&["n_head", "num_attention_heads"]);
    let hidden = Size::read(config, width)?;
    let heads = Heads::multi(config, width, count)?;
    let inner = match config.opt_usize("n_inner")? {
        Some(n) => Size::new(n, "n_inner"),
        None => Size::new(4 * hidden.n, format!("four times {width}")),
    };
    let activation = Activation::read(config, "activation_function", "gelu_new")?;
    let mlp = Mlp::plain(["mlp.c_fc", "mlp.c_proj"], inner, activation);
    let norm = Norm::layer(positive(config, "layer_norm_epsilon", 1e-5)?);
    let positions = config.any(&["n_positions", "max_position_embeddings"]);
    let rows = Size::new(config.usize_or(positions, 1024)?, positions);
    let layers = config.usize(config.any(&["n_layer", "num_hidden_layers"]))?;
    let mut decoder = Decoder {
        names: Names::transformer("wte"),
        context: rows.n,
        learned: Some(Learned {
            name: "wpe",
            rows,
            offset: 0,
        }),
        layers: Own::alike(layers, None),
        tied: config.bool_or("tie_word_embeddings", true)?,
        transposed: true,
        ..Decoder::new(Size::read(config, "vocab_size")?, hidden, norm, heads, mlp)
    };
    let layer = &mut decoder.layer;
    layer.attention.projections = Projections::Joined("attn.c_attn");
    layer.attention.output = "attn.c_proj";
    layer.attention_norms = Norms::before("ln_1");
    layer.mlp_norms = Norms::before("ln_2");
    Ok(Box::new(decoder.attention_bias(true)))
}
