//! StableLM 2 (arXiv 2402.17834): Llama with layer norms, a part of each head rotated, and both blocks side by side
//! where the config says so.

use super::{
    Architecture, Family, ModelError,
    attention::{HeadNorm, Over},
    blocks::{Norm, positive},
    decoder::{Decoder, asked, heads},
    layer::Norms,
    rope::Frequencies,
};
use crate::checkpoint::Config;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "stablelm",
    architectures: &["StableLmForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    asked(config)?;
    let norm = Norm::layer(positive(config, "layer_norm_eps", 1e-5)?);
    let rope = Frequencies::read(config, "full_attention", (1e4, 0.25), heads(config)?.dim)?;
    let mut decoder = Decoder::read_without_rope(config)?;
    decoder.context = rope.context(decoder.context);
    decoder.ropes = vec![rope];
    decoder.layer.norm = norm;
    decoder.layer.attention.input_bias = config.bool_or("use_qkv_bias", false)?;
    if config.bool_or("qk_layernorm", false)? {
        decoder.layer.attention.head_norm = Some(HeadNorm {
            names: ["self_attn.q_layernorm", "self_attn.k_layernorm"],
            norm: norm.unbiased(),
            over: Over::OwnHead,
        });
    }
    if config.bool_or("use_parallel_residual", false)? {
        decoder.layer.parallel = true;
        decoder.layer.mlp_norms = Norms::before("input_layernorm");
    }
    Ok(Box::new(decoder))
}
