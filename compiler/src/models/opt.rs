//! OPT (arXiv 2205.01068): learned positions behind two unused rows, counted without padding; norms before or, in the
//! model of 350 million parameters, after each block.

use super::{
    Architecture, Family, ModelError,
    attention::Heads,
    blocks::{Activation, Gain, Mlp, Norm},
    decoder::{Decoder, Learned, Names, Own},
    draft::Size,
    layer::Norms,
};
use crate::checkpoint::Config;
use ir::Positions;

/// Rows of the position table before the first position's.
const OFFSET: usize = 2;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "opt",
    architectures: &["OPTForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let heads = Heads::multi(config, "hidden_size", "num_attention_heads")?;
    let bias = config.bool_or("enable_bias", true)?;
    let activation = Activation::read(config, "activation_function", "relu")?;
    let inner = Size::read(config, "ffn_dim")?;
    let mut mlp = Mlp::plain(["fc1", "fc2"], inner, activation);
    mlp.bias = bias;
    let mut norm = Norm::layer(1e-5);
    if !config.bool_or("layer_norm_elementwise_affine", true)? {
        (norm.gain, norm.bias) = (Gain::None, false);
    }
    let (vocabulary, hidden) = (
        Size::read(config, "vocab_size")?,
        Size::read(config, "hidden_size")?,
    );
    let narrow = config.usize_or("word_embed_proj_dim", hidden.n)?;
    let embedding = (narrow != hidden.n).then(|| {
        let width = Size::new(narrow, "word_embed_proj_dim");
        (width, ["project_in", "project_out"])
    });
    let context = config.usize_or("max_position_embeddings", 2048)?;
    let before = config.bool_or("do_layer_norm_before", true)?;
    let last = before && !config.bool_or("_remove_final_layer_norm", false)?;
    let mut decoder = Decoder {
        names: Names {
            backbone: "model.",
            scope: "model.decoder.",
            embedding: "embed_tokens",
            stem: "layers.",
            norm: last.then_some("final_layer_norm"),
            head: "lm_head",
        },
        embedding,
        context,
        learned: Some(Learned {
            name: "embed_positions",
            rows: Size::new(context + OFFSET, "two more than max_position_embeddings"),
            offset: OFFSET,
        }),
        layers: Own::alike(config.usize("num_hidden_layers")?, None),
        tied: config.bool_or("tie_word_embeddings", true)?,
        numbering: Positions::Unmasked,
        ..Decoder::new(vocabulary, hidden, norm, heads, mlp)
    };
    let layer = &mut decoder.layer;
    layer.attention.output = "self_attn.out_proj";
    let norms = if before { Norms::before } else { Norms::sum };
    layer.attention_norms = norms("self_attn_layer_norm");
    layer.mlp_norms = norms("final_layer_norm");
    Ok(Box::new(decoder.attention_bias(bias)))
}
