//! Phi-3 (arXiv 2404.14219): Llama with queries, keys and values in one tensor, and gate and up in another.

use super::{
    Architecture, Family, ModelError,
    attention::Projections,
    blocks::Gate,
    decoder::{Decoder, heads},
    rope::Frequencies,
};
use crate::checkpoint::Config;
use std::iter::repeat;

/// See the module's text; also what Phi-3.5-mini and Phi-4 are.
pub(super) const FAMILY: Family = Family {
    name: "phi3",
    architectures: &["Phi3ForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let heads = heads(config)?;
    let mut rope = config.rope("full_attention", 1e4)?;
    // What the first checkpoints call longrope.
    if ["su", "yarn"].contains(&rope.kind.as_str()) {
        rope.kind = "longrope".into();
    }
    let rope = Frequencies::of(config, &rope, heads.dim)?;
    let mut decoder = Decoder::read_without_rope(config)?;
    decoder.context = rope.context(decoder.context);
    decoder.ropes = vec![rope];
    decoder.layer.attention.projections = Projections::Joined("self_attn.qkv_proj");
    decoder.layer.mlp.gate = Gate::Joined;
    decoder.layer.mlp.up = "mlp.gate_up_proj";
    let window = config.opt_usize("sliding_window")?;
    Ok(Box::new(decoder.windowed(window, repeat(true))))
}
