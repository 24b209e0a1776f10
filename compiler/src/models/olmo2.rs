//! OLMo 2 (arXiv 2501.00656): Llama with norms behind its blocks rather than before them, and norms of all queries and
//! all keys of a token.

use super::{
    Architecture, Family, ModelError,
    attention::{HeadNorm, Over},
    blocks::{Norm, positive},
    decoder::Decoder,
    layer::Norms,
};
use crate::checkpoint::Config;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "olmo2",
    architectures: &["Olmo2ForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let bias = config.bool_or("attention_bias", false)?;
    let mut decoder = Decoder::read(config)?.attention_bias(bias);
    let norm = Norm::rms(positive(config, "rms_norm_eps", 1e-5)?);
    let after = |name| Norms {
        after: Some(name),
        ..Norms::default()
    };
    decoder.layer.norm = norm;
    decoder.layer.attention_norms = after("post_attention_layernorm");
    decoder.layer.mlp_norms = after("post_feedforward_layernorm");
    decoder.layer.attention.head_norm = Some(HeadNorm {
        names: ["self_attn.q_norm", "self_attn.k_norm"],
        norm,
        over: Over::All,
    });
    Ok(Box::new(decoder))
}
