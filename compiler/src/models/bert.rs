//! BERT (arXiv 1810.04805).

use super::{
    Architecture, Family, ModelError,
    attention::Heads,
    blocks::{Activation, Mlp, Norm, positive},
    draft::Size,
    encoder::{Encoder, Names, Own, post_norm},
    head::{Head, Rows, Transform},
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
        "BertForQuestionAnswering",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let head = match config.architecture()? {
        "BertForTokenClassification" => {
            Head::classes(Rows::Each, None, "classifier", config.labels()?)
        }
        "BertForSequenceClassification" => {
            let pooler = Transform::plain("bert.pooler.dense", Tanh);
            Head::classes(Rows::First, Some(pooler), "classifier", config.labels()?)
        }
        "BertForQuestionAnswering" => Head::answers(None, "qa_outputs"),
        "BertForMaskedLM" => Head::words(
            Transform {
                norm: Some("cls.predictions.transform.LayerNorm"),
                ..Transform::plain(
                    "cls.predictions.transform.dense",
                    Activation::read(config, "hidden_act", "gelu")?,
                )
            },
            match config.bool_or("tie_word_embeddings", true)? {
                true => "bert.embeddings.word_embeddings.weight",
                false => "cls.predictions.decoder.weight",
            },
            Some(["cls.predictions.bias", "cls.predictions.decoder.bias"]),
        ),
        _ => Head::Bare {
            pooler: Some("bert.pooler.dense"),
        },
    };
    let backbone = "bert.";
    Ok(Box::new(encoder(config, backbone, head)?))
}

/// The model of tensors under `backbone`.
pub(super) fn encoder(
    config: &Config,
    backbone: &'static str,
    head: Head,
) -> Result<Encoder, ModelError> {
    let refuse = |key, expected: &str| Err(config.invalid(key, expected).into());
    if config.str_or("position_embedding_type", "absolute")? != "absolute" {
        return refuse("position_embedding_type", "absolute");
    }
    for key in ["is_decoder", "add_cross_attention"] {
        if config.bool_or(key, false)? {
            return refuse(key, "false: this family is built as an encoder only");
        }
    }
    let heads = Heads::multi(config, "hidden_size", "num_attention_heads")?;
    let mlp = Mlp::plain(
        ["intermediate.dense", "output.dense"],
        Size::read(config, "intermediate_size")?,
        Activation::read(config, "hidden_act", "gelu")?,
    );
    let context = config.usize_or("max_position_embeddings", 512)?;
    Ok(Encoder {
        names: Names {
            backbone,
            words: "word_embeddings",
            embedding_norm: Some("LayerNorm"),
            stem: "encoder.layer.",
            norm: None,
        },
        image: None,
        vocabulary: Size::read(config, "vocab_size")?,
        hidden: Size::read(config, "hidden_size")?,
        embedding: None,
        positions: Size::new(context, "max_position_embeddings"),
        token_types: Size::new(config.usize_or("type_vocab_size", 2)?, "type_vocab_size"),
        numbering: Positions::Index,
        context,
        ropes: vec![],
        layer: post_norm(
            heads,
            Norm::layer(positive(config, "layer_norm_eps", 1e-12)?),
            mlp,
            [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
            ],
            [
                "attention.output.dense",
                "attention.output.LayerNorm",
                "output.LayerNorm",
            ],
        ),
        layers: Own::plain(config.usize("num_hidden_layers")?),
        head,
    })
}
