//! Gemma (arXiv 2403.08295), Gemma 2 (2408.00118) and the text models of Gemma 3 (2503.19786): gains that count from
//! one, scaled embeddings, and from 2 on norms around both blocks and windows on most layers.

use super::{
    Architecture, Family, ModelError,
    attention::{HeadNorm, Over},
    blocks::{Activation, Gain, positive},
    decoder::{Decoder, asked, slides},
    layer::Norms,
    rope::Frequencies,
};
use crate::checkpoint::Config;
use ir::ops::GeluTanh;

/// The first Gemma.
pub(super) const GEMMA: Family = Family {
    name: "gemma",
    architectures: &["GemmaForCausalLM"],
    read: |config| Ok(Box::new(gemma(config)?) as Box<dyn Architecture>),
};

/// Bounds scores and logits, and slides on every other layer.
pub(super) const GEMMA2: Family = Family {
    name: "gemma2",
    architectures: &["Gemma2ForCausalLM"],
    read: |config| {
        let decoder = second(config, |i| (i + 1) % 2 != 0)?.0;
        Ok(Box::new(capped(decoder, config, [Some(50.0), Some(30.0)])?) as Box<dyn Architecture>)
    },
};

/// Slides on most layers, which have a rotation of their own, and normalises heads.
pub(super) const GEMMA3: Family = Family {
    name: "gemma3_text",
    architectures: &["Gemma3ForCausalLM"],
    read: |config| {
        if config.bool_or("use_bidirectional_attention", false)? {
            let expected = "false: this family is built as a decoder only";
            return Err(config
                .invalid("use_bidirectional_attention", expected)
                .into());
        }
        let pattern = config.usize_or("sliding_window_pattern", 6)?.max(1);
        let (mut decoder, slides) = second(config, |i| (i + 1) % pattern != 0)?;
        let dim = decoder.layer.attention.heads.dim;
        let rope = |ty, theta| Frequencies::read(config, ty, (theta, 1.0), dim);
        decoder.ropes = vec![
            rope("full_attention", 1e6)?,
            rope("sliding_attention", 1e4)?,
        ];
        decoder.context = decoder.ropes[0].context(decoder.context);
        for (own, slides) in decoder.layers.iter_mut().zip(slides) {
            own.rope = Some(usize::from(slides));
        }
        decoder.layer.attention.head_norm = Some(HeadNorm {
            names: ["self_attn.q_norm", "self_attn.k_norm"],
            norm: decoder.layer.norm,
            over: Over::Head,
        });
        Ok(Box::new(capped(decoder, config, [None, None])?) as Box<dyn Architecture>)
    },
};

/// What all have in common.
fn gemma(config: &Config) -> Result<Decoder, ModelError> {
    // Where absent they are those of one model.
    config.usize("head_dim")?;
    asked(config)?;
    let bias = config.bool_or("attention_bias", false)?;
    let mut decoder = Decoder::read(config)?.attention_bias(bias);
    let key = config.any(&["hidden_activation", "hidden_act"]);
    decoder.layer.mlp.activation = match config.opt_str(key)? {
        // What the first checkpoints say and do not mean.
        Some("gelu") if key == "hidden_act" => GeluTanh.into(),
        _ => Activation::read(config, key, "gelu_pytorch_tanh")?,
    };
    decoder.layer.norm.gain = Gain::OnePlusWeight;
    decoder.tied = config.bool_or("tie_word_embeddings", true)?;
    decoder.embedding_scale = (decoder.hidden.n as f64).sqrt();
    Ok(decoder)
}

/// What the second and the third have in common, and which layers slide.
fn second(
    config: &Config,
    default: impl Fn(usize) -> bool,
) -> Result<(Decoder, Vec<bool>), ModelError> {
    let mut decoder = gemma(config)?;
    let around = |before, after| Norms {
        before: Some(before),
        after: Some(after),
        sum: None,
    };
    decoder.layer.attention_norms = around("input_layernorm", "post_attention_layernorm");
    decoder.layer.mlp_norms = around("pre_feedforward_layernorm", "post_feedforward_layernorm");
    decoder.layer.attention.scale = positive(config, "query_pre_attn_scalar", 256.0)?.powf(-0.5);
    let slides = slides(config, decoder.layers.len(), default)?;
    let window = config.usize_unless_null("sliding_window", 4096)?;
    Ok((decoder.windowed(window, slides.clone()), slides))
}

/// Bounds on scores and logits.
fn capped(
    mut decoder: Decoder,
    config: &Config,
    [scores, logits]: [Option<f64>; 2],
) -> Result<Decoder, ModelError> {
    let cap = |key: &str, default: Option<f64>| {
        let cap = match default {
            Some(default) => config.f64_unless_null(key, default)?,
            None => config.opt_f64(key)?,
        };
        match cap {
            Some(cap) if !(cap > 0.0 && cap.is_finite()) => {
                Err(config.invalid(key, "a positive number or null"))
            }
            cap => Ok(cap.unwrap_or(0.0)),
        }
    };
    decoder.layer.attention.softcap = cap("attn_logit_softcapping", scores)?;
    decoder.logits_softcap = cap("final_logit_softcapping", logits)?;
    Ok(decoder)
}
