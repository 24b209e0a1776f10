//! DistilBERT (arXiv 1910.01108): BERT without segments and pooler, under other names.

use super::{
    Architecture, Family, ModelError,
    blocks::{Activation, Heads, Mlp, Norm},
    draft::Size,
    encoder::{Encoder, Head, Names},
};
use crate::checkpoint::Config;
use ir::{Positions, ops::Relu};

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "distilbert",
    architectures: &[
        "DistilBertModel",
        "DistilBertForTokenClassification",
        "DistilBertForSequenceClassification",
        "DistilBertForMaskedLM",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let heads = config.usize("n_heads")?;
    let context = config.usize_or("max_position_embeddings", 512)?;
    let activation = Activation::read(config, "activation", "gelu")?;
    let head = match config.architecture()? {
        "DistilBertForTokenClassification" => Head::Tokens {
            labels: config.labels()?,
        },
        "DistilBertForSequenceClassification" => Head::Sequences {
            dense: "pre_classifier",
            activation: Activation::from(Relu),
            out: "classifier",
            labels: config.labels()?,
        },
        "DistilBertForMaskedLM" => Head::Words {
            dense: "vocab_transform",
            activation: activation.clone(),
            norm: "vocab_layer_norm",
            table: match config.bool_or("tie_word_embeddings", true)? {
                true => "distilbert.embeddings.word_embeddings.weight",
                false => "vocab_projector.weight",
            },
            bias: ["vocab_projector.bias"; 2],
        },
        _ => Head::Bare { pooler: None },
    };
    Ok(Box::new(Encoder {
        backbone: "distilbert.",
        names: Names {
            stem: "distilbert.transformer.layer.",
            projections: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
            output: "attention.out_lin",
            attention_norm: "sa_layer_norm",
            norm: "output_layer_norm",
        },
        vocabulary: Size::read(config, "vocab_size")?,
        hidden: Size::read(config, "dim")?,
        positions: Size::new(context, "max_position_embeddings"),
        token_types: Size::new(0, "segments"),
        numbering: Positions::Index,
        context,
        layers: config.usize("n_layers")?,
        heads: Heads {
            heads,
            groups: heads,
            dim: config.quotient("dim", "n_heads")?,
        },
        norm: Norm::Layer { eps: 1e-12 },
        mlp: Mlp {
            gate: None,
            up: "ffn.lin1",
            down: "ffn.lin2",
            bias: true,
            inner: Size::read(config, "hidden_dim")?,
            activation,
        },
        head,
    }))
}
