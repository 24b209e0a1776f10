//! ModernBERT (arXiv 2412.13663): norms before the blocks, rotary positions, gated feed-forward layers, and windows on
//! most layers, which have a rotation of their own.

use super::{
    Architecture, Family, ModelError,
    attention::{Attention, Heads, Projections, Span},
    blocks::{Activation, Gate, Mlp, Norm, positive},
    decoder::slides,
    draft::Size,
    encoder::{Encoder, Names, Own},
    head::{Head, Rows, Transform},
    layer::{Layer, Norms},
    rope::Frequencies,
};
use crate::checkpoint::Config;
use ir::Positions;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "modernbert",
    architectures: &[
        "ModernBertModel",
        "ModernBertForTokenClassification",
        "ModernBertForSequenceClassification",
        "ModernBertForMaskedLM",
        "ModernBertForQuestionAnswering",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let heads = Heads::multi(config, "hidden_size", "num_attention_heads")?;
    let mut norm = Norm::layer(positive(config, "norm_eps", 1e-5)?);
    norm.bias = config.bool_or("norm_bias", false)?;
    let bias = config.bool_or("attention_bias", false)?;
    let mlp = Mlp {
        gate: Gate::Joined,
        up: "mlp.Wi",
        down: "mlp.Wo",
        bias: config.bool_or("mlp_bias", false)?,
        inner: Size::read(config, "intermediate_size")?,
        activation: Activation::read(config, "hidden_activation", "gelu")?,
    };
    let rope = |ty, theta| Frequencies::read(config, ty, (theta, 1.0), heads.dim);
    let ropes = vec![
        rope("full_attention", 160_000.0)?,
        rope("sliding_attention", 1e4)?,
    ];
    let mut layers = Own::plain(config.usize("num_hidden_layers")?);
    let every = config.usize_or("global_attn_every_n_layers", 3)?.max(1);
    let reach = config.usize_or("local_attention", 128)? / 2;
    let slides = slides(config, layers.len(), |i| i % every != 0)?;
    for (own, slides) in layers.iter_mut().zip(slides) {
        own.rope = Some(usize::from(slides));
        if slides {
            own.span = Span::Around(reach);
        }
        // Embeddings are normalised already.
        own.normed = own.index > 0;
    }
    Ok(Box::new(Encoder {
        names: Names {
            backbone: "model.",
            words: "tok_embeddings",
            embedding_norm: Some("norm"),
            stem: "layers.",
            norm: Some("final_norm"),
        },
        image: None,
        vocabulary: Size::read(config, "vocab_size")?,
        hidden: Size::read(config, "hidden_size")?,
        embedding: None,
        positions: Size::new(0, "learned positions"),
        token_types: Size::new(0, "segments"),
        numbering: Positions::Index,
        context: config.usize_or("max_position_embeddings", 8192)?,
        ropes,
        layer: Layer {
            norm,
            attention: Attention {
                projections: Projections::Joined("attn.Wqkv"),
                input_bias: bias,
                output_bias: bias,
                ..Attention::plain(heads, "attn.Wo")
            },
            attention_norms: Norms::before("attn_norm"),
            mlp,
            mlp_norms: Norms::before("mlp_norm"),
            parallel: false,
            residual: 1.0,
        },
        layers,
        head: head(config)?,
    }))
}

fn head(config: &Config) -> Result<Head, ModelError> {
    let transform = Transform {
        dense: "head.dense",
        bias: config.bool_or("classifier_bias", false)?,
        activation: Activation::read(config, "classifier_activation", "gelu")?,
        norm: Some("head.norm"),
    };
    Ok(match config.architecture()? {
        "ModernBertForTokenClassification" => {
            Head::classes(Rows::Each, Some(transform), "classifier", config.labels()?)
        }
        "ModernBertForSequenceClassification" => {
            const KEY: &str = "classifier_pooling";
            let rows = match config.str_or(KEY, "cls")? {
                "cls" => Rows::First,
                "mean" => Rows::Mean,
                _ => return Err(config.invalid(KEY, "cls or mean").into()),
            };
            Head::classes(rows, Some(transform), "classifier", config.labels()?)
        }
        "ModernBertForQuestionAnswering" => Head::answers(Some(transform), "classifier"),
        "ModernBertForMaskedLM" => {
            let bias = config.bool_or("decoder_bias", true)?;
            Head::words(
                transform,
                match config.bool_or("tie_word_embeddings", true)? {
                    true => "model.embeddings.tok_embeddings.weight",
                    false => "decoder.weight",
                },
                bias.then_some(["decoder.bias"; 2]),
            )
        }
        _ => Head::Bare { pooler: None },
    })
}
