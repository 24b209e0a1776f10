//! BERT (arXiv 1810.04805).

use super::{
    Architecture, Family, ModelError,
    blocks::{Activation, Heads, Mlp, Norm, positive},
    draft::Size,
    encoder::{Encoder, Head, Names},
};
use crate::checkpoint::Config;
use ir::{Positions, ops::Tanh};

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "bert",
    architectures: &[
        "BertModel",
        "BertForTokenClassification",
        "BertForSequenceClassification",
        "BertForMaskedLM",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let encoder = encoder(config)?;
    let head = match config.architecture()? {
        "BertForTokenClassification" => Head::Tokens {
            labels: config.labels()?,
        },
        "BertForSequenceClassification" => Head::Sequences {
            dense: "bert.pooler.dense",
            activation: Activation::from(Tanh),
            out: "classifier",
            labels: config.labels()?,
        },
        "BertForMaskedLM" => Head::Words {
            dense: "cls.predictions.transform.dense",
            activation: encoder.mlp.activation.clone(),
            norm: "cls.predictions.transform.LayerNorm",
            table: match config.bool_or("tie_word_embeddings", true)? {
                true => "bert.embeddings.word_embeddings.weight",
                false => "cls.predictions.decoder.weight",
            },
            bias: ["cls.predictions.bias", "cls.predictions.decoder.bias"],
        },
        _ => Head::Bare {
            pooler: Some("bert.pooler.dense"),
        },
    };
    Ok(Box::new(Encoder { head, ..encoder }))
}

/// The bare model.
pub(super) fn encoder(config: &Config) -> Result<Encoder, ModelError> {
    let refuse = |key, expected: &str| Err(config.invalid(key, expected).into());
    if config.str_or("position_embedding_type", "absolute")? != "absolute" {
        return refuse("position_embedding_type", "absolute");
    }
    for key in ["is_decoder", "add_cross_attention"] {
        if config.bool_or(key, false)? {
            return refuse(key, "false: this family is built as an encoder only");
        }
    }
    let heads = config.usize("num_attention_heads")?;
    let context = config.usize_or("max_position_embeddings", 512)?;
    let eps = positive(config, "layer_norm_eps", 1e-12)?;
    Ok(Encoder {
        backbone: "bert.",
        names: Names {
            stem: "bert.encoder.layer.",
            projections: [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
            ],
            output: "attention.output.dense",
            attention_norm: "attention.output.LayerNorm",
            norm: "output.LayerNorm",
        },
        vocabulary: Size::read(config, "vocab_size")?,
        hidden: Size::read(config, "hidden_size")?,
        positions: Size::new(context, "max_position_embeddings"),
        token_types: Size::new(config.usize_or("type_vocab_size", 2)?, "type_vocab_size"),
        numbering: Positions::Index,
        context,
        layers: config.usize("num_hidden_layers")?,
        heads: Heads {
            heads,
            groups: heads,
            dim: config.quotient("hidden_size", "num_attention_heads")?,
        },
        norm: Norm::Layer { eps },
        mlp: Mlp {
            gate: None,
            up: "intermediate.dense",
            down: "output.dense",
            bias: true,
            inner: Size::read(config, "intermediate_size")?,
            activation: Activation::read(config, "hidden_act", "gelu")?,
        },
        head: Head::Bare { pooler: None },
    })
}
