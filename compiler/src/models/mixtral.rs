//! Mixtral (arXiv 2401.04088): Mistral with eight feed-forward layers of which each token picks two.

use super::{Architecture, Family, ModelError, experts::Experts, mistral};
use crate::checkpoint::Config;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "mixtral",
    architectures: &["MixtralForCausalLM"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    if config.str_or("hidden_act", "silu")? != "silu" {
        return Err(config.invalid("hidden_act", "silu").into());
    }
    let mut decoder = mistral::read(config, None, 1e6)?;
    let (count, chosen) = Experts::counts(config, &["num_local_experts", "num_experts"])?;
    decoder.experts = Some(Experts {
        router: "block_sparse_moe.gate",
        count,
        chosen,
        normalized: true,
        stem: "block_sparse_moe.experts.",
        names: ["w1", "w3", "w2"],
        inner: decoder.layer.mlp.inner.clone(),
    });
    Ok(Box::new(decoder))
}
