//! Qwen 2 (arXiv 2407.10671): Llama with biases on queries, keys and values. Qwen 3 (arXiv 2505.09388): norms on each
//! head of queries and keys instead.

use super::{
    Architecture, Family, ModelError,
    attention::{HeadNorm, Over},
    decoder::{Decoder, asked, slides},
    draft::Size,
    experts::Experts,
};
use crate::checkpoint::{CheckpointError, Config};

/// See the module's text; also what Qwen 2.5 is.
pub(super) const QWEN2: Family = Family {
    name: "qwen2",
    architectures: &["Qwen2ForCausalLM"],
    read: |config| {
        let mut decoder = read(config)?;
        decoder.layer.attention.input_bias = true;
        Ok(Box::new(decoder) as Box<dyn Architecture>)
    },
};

/// See the module's text.
pub(super) const QWEN3: Family = Family {
    name: "qwen3",
    architectures: &["Qwen3ForCausalLM"],
    read: |config| Ok(Box::new(qwen3(config)?) as Box<dyn Architecture>),
};

/// Qwen 3, without its experts.
fn qwen3(config: &Config) -> Result<Decoder, ModelError> {
    // Where absent it is 128, not what the other sizes imply: better asked for than guessed.
    config.usize("head_dim")?;
    let bias = config.bool_or("attention_bias", false)?;
    let mut decoder = read(config)?.attention_bias(bias);
    decoder.layer.attention.head_norm = Some(HeadNorm {
        names: ["self_attn.q_norm", "self_attn.k_norm"],
        norm: decoder.layer.norm,
        over: Over::Head,
    });
    Ok(decoder)
}

/// Qwen 3 with many small feed-forward layers of which each token picks a few.
pub(super) const QWEN3_MOE: Family = Family {
    name: "qwen3_moe",
    architectures: &["Qwen3MoeForCausalLM"],
    read: |config| {
        if config.str_or("hidden_act", "silu")? != "silu" {
            return Err(config.invalid("hidden_act", "silu").into());
        }
        let mut decoder = qwen3(config)?;
        decoder = decoder.windowed(window(config)?, std::iter::repeat(true));
        let (count, chosen) = Experts::counts(config, &["num_experts", "num_local_experts"])?;
        decoder.experts = Some(Experts {
            router: "mlp.gate",
            count,
            chosen,
            normalized: config.bool_or("norm_topk_prob", false)?,
            stem: "mlp.experts.",
            names: ["gate_proj", "up_proj", "down_proj"],
            inner: Size::read(config, "moe_intermediate_size")?,
        });
        let step = config.usize_or("decoder_sparse_step", 1)?.max(1);
        let dense = config.opt_f64s("mlp_only_layers")?.unwrap_or_default();
        for (i, own) in decoder.layers.iter_mut().enumerate() {
            own.sparse = (i + 1) % step == 0 && !dense.contains(&(i as f64));
        }
        Ok(Box::new(decoder) as Box<dyn Architecture>)
    },
};

/// How far layers that slide see, where some do.
fn window(config: &Config) -> Result<Option<usize>, CheckpointError> {
    match config.bool_or("use_sliding_window", false)? {
        true => config.usize_unless_null("sliding_window", 4096),
        false => Ok(None),
    }
}

/// The decoder, with a window on the layers that the config lists, or on those from `max_window_layers` on.
fn read(config: &Config) -> Result<Decoder, ModelError> {
    asked(config)?;
    let window = window(config)?;
    let first = config.usize_or("max_window_layers", 28)?;
    let decoder = Decoder::read(config)?;
    let slides = slides(config, decoder.layers.len(), |i| i >= first)?;
    Ok(decoder.windowed(window, slides))
}
