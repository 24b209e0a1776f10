//! Falcon (arXiv 2311.16867): one key for many queries, both blocks side by side; the first models turn nothing by
//! position but let scores fall with distance.

use super::{
    Architecture, Family, ModelError,
    attention::{Heads, Projections},
    bias::{Alibi, Bias},
    blocks::{Activation, Mlp, Norm, positive},
    decoder::{Decoder, Names, Own},
    draft::Size,
    layer::Norms,
    rope::Frequencies,
};
use crate::checkpoint::Config;
use ir::Positions;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "falcon",
    architectures: &["FalconForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let width = config.any(&["hidden_size", "n_embed"]);
    let count = config.any(&["num_attention_heads", "n_head"]);
    let hidden = Size::read(config, width)?;
    let new = config.bool_or("new_decoder_architecture", false)?;
    let heads = heads(config, new, width, count)?;
    let bias = config.bool_or("bias", false)?;
    let inner = match config.opt_usize("ffn_hidden_size")? {
        Some(n) => Size::new(n, "ffn_hidden_size"),
        None => Size::new(4 * hidden.n, format!("four times {width}")),
    };
    let activation = Activation::read(config, "activation", "gelu")?;
    let mut mlp = Mlp::plain(
        ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
        inner,
        activation,
    );
    mlp.bias = bias;
    let norm = Norm::layer(positive(config, "layer_norm_epsilon", 1e-5)?);
    let alibi = config.bool_or("alibi", false)?;
    if alibi && heads.groups != heads.heads {
        let expected = "false where heads share keys";
        return Err(config.invalid("alibi", expected).into());
    }
    let (rope, context) = (
        Frequencies::read(config, "full_attention", (1e4, 1.0), heads.dim)?,
        config.usize_or("max_position_embeddings", 2048)?,
    );
    let layers = config.usize(config.any(&["num_hidden_layers", "n_layer"]))?;
    let mut decoder = Decoder {
        names: Names::transformer("word_embeddings"),
        context: rope.context(context),
        ropes: if alibi { vec![] } else { vec![rope] },
        layers: Own::alike(layers, (!alibi).then_some(0)),
        tied: config.bool_or("tie_word_embeddings", true)?,
        numbering: if alibi {
            Positions::Unmasked
        } else {
            Positions::Index
        },
        ..Decoder::new(Size::read(config, "vocab_size")?, hidden, norm, heads, mlp)
    };
    let layer = &mut decoder.layer;
    layer.attention.projections = Projections::Grouped("self_attention.query_key_value");
    layer.attention.output = "self_attention.dense";
    layer.attention.bias = alibi.then_some(Bias::Alibi(Alibi {
        scaled: true,
        rounded: true,
    }));
    layer.parallel = new || config.bool_or("parallel_attn", true)?;
    let norms = config.usize_or("num_ln_in_parallel_attn", if new { 2 } else { 1 })?;
    if !layer.parallel {
        layer.attention_norms = Norms::before("input_layernorm");
        layer.mlp_norms = Norms::before("post_attention_layernorm");
    } else if new && norms == 2 {
        layer.attention_norms = Norms::before("ln_attn");
        layer.mlp_norms = Norms::before("ln_mlp");
    } else {
        layer.attention_norms = Norms::before("input_layernorm");
        layer.mlp_norms = Norms::before("input_layernorm");
    }
    Ok(Box::new(decoder.attention_bias(bias)))
}

/// Heads: groups as the config counts them, one, or as many as heads, by the architecture.
fn heads(config: &Config, new: bool, width: &str, count: &str) -> Result<Heads, ModelError> {
    let all = Heads::multi(config, width, count)?;
    let heads = all.heads;
    let groups = match (new, config.bool_or("multi_query", true)?) {
        (true, _) => {
            let key = config.any(&["num_kv_heads", "n_head_kv"]);
            let groups = config.usize_or(key, heads)?;
            if heads % groups != 0 {
                let expected = format!("a divisor of {count}, which is {heads}");
                return Err(config.invalid(key, expected).into());
            }
            groups
        }
        (false, true) => 1,
        (false, false) => heads,
    };
    Ok(Heads { groups, ..all })
}
