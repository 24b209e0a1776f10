//! DistilBERT (arXiv 1910.01108): BERT without segments and pooler, under other names.

use super::{
    Architecture, Family, ModelError,
    attention::Heads,
    blocks::{Activation, Mlp, Norm},
    draft::Size,
    encoder::{Encoder, Names, Own, post_norm},
    head::{Head, Rows, Transform},
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
        "DistilBertForQuestionAnswering",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let heads = Heads::multi(config, "dim", "n_heads")?;
    let context = config.usize_or("max_position_embeddings", 512)?;
    let activation = Activation::read(config, "activation", "gelu")?;
    let head = match config.architecture()? {
        "DistilBertForTokenClassification" => {
            Head::classes(Rows::Each, None, "classifier", config.labels()?)
        }
        "DistilBertForSequenceClassification" => {
            let dense = Transform::plain("pre_classifier", Relu);
            Head::classes(Rows::First, Some(dense), "classifier", config.labels()?)
        }
        "DistilBertForQuestionAnswering" => Head::answers(None, "qa_outputs"),
        "DistilBertForMaskedLM" => Head::words(
            Transform {
                norm: Some("vocab_layer_norm"),
                ..Transform::plain("vocab_transform", activation.clone())
            },
            match config.bool_or("tie_word_embeddings", true)? {
                true => "distilbert.embeddings.word_embeddings.weight",
                false => "vocab_projector.weight",
            },
            Some(["vocab_projector.bias"; 2]),
        ),
        _ => Head::Bare { pooler: None },
    };
    let inner = Size::read(config, "hidden_dim")?;
    let mlp = Mlp::plain(["ffn.lin1", "ffn.lin2"], inner, activation);
    Ok(Box::new(Encoder {
        names: Names {
            backbone: "distilbert.",
            words: "word_embeddings",
            embedding_norm: Some("LayerNorm"),
            stem: "transformer.layer.",
            norm: None,
        },
        image: None,
        vocabulary: Size::read(config, "vocab_size")?,
        hidden: Size::read(config, "dim")?,
        embedding: None,
        positions: Size::new(context, "max_position_embeddings"),
        token_types: Size::new(0, "segments"),
        numbering: Positions::Index,
        context,
        ropes: vec![],
        layer: post_norm(
            heads,
            Norm::layer(1e-12),
            mlp,
            ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
            ["attention.out_lin", "sa_layer_norm", "output_layer_norm"],
        ),
        layers: Own::plain(config.usize("n_layers")?),
        head,
    }))
}
