//! ALBERT (arXiv 1909.11942): BERT with narrower embeddings, and layers that share their weights.

use super::{
    Architecture, Family, ModelError,
    blocks::Activation,
    draft::Size,
    encoder::{Encoder, Names, post_norm},
    head::{Head, Rows, Transform},
};
use crate::checkpoint::Config;
use ir::ops::Tanh;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "albert",
    architectures: &[
        "AlbertModel",
        "AlbertForTokenClassification",
        "AlbertForSequenceClassification",
        "AlbertForMaskedLM",
        "AlbertForQuestionAnswering",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    if config.usize_or("inner_group_num", 1)? != 1 {
        return Err(config.invalid("inner_group_num", "1").into());
    }
    let activation = Activation::read(config, "hidden_act", "gelu_new")?;
    let head = match config.architecture()? {
        "AlbertForTokenClassification" => {
            Head::classes(Rows::Each, None, "classifier", config.labels()?)
        }
        "AlbertForSequenceClassification" => {
            let pooler = Transform::plain("albert.pooler", Tanh);
            Head::classes(Rows::First, Some(pooler), "classifier", config.labels()?)
        }
        "AlbertForQuestionAnswering" => Head::answers(None, "qa_outputs"),
        "AlbertForMaskedLM" => Head::words(
            Transform {
                norm: Some("predictions.LayerNorm"),
                ..Transform::plain("predictions.dense", activation.clone())
            },
            match config.bool_or("tie_word_embeddings", true)? {
                true => "albert.embeddings.word_embeddings.weight",
                false => "predictions.decoder.weight",
            },
            Some(["predictions.bias", "predictions.decoder.bias"]),
        ),
        _ => Head::Bare {
            pooler: Some("albert.pooler"),
        },
    };
    let bert = super::bert::encoder(config, "albert.", head)?;
    let mut mlp = bert.layer.mlp;
    mlp.activation = activation;
    (mlp.up, mlp.down) = ("albert_layers.0.ffn", "albert_layers.0.ffn_output");
    let width = Size::new(config.usize_or("embedding_size", 128)?, "embedding_size");
    let layers = bert.layers.len();
    let groups = config.usize_or("num_hidden_groups", 1)?;
    if groups == 0 || groups > layers {
        let expected = format!("an integer from 1 to num_hidden_layers, which is {layers}");
        return Err(config.invalid("num_hidden_groups", expected).into());
    }
    let mut own = bert.layers;
    for own in &mut own {
        own.index = own.index * groups / layers;
    }
    Ok(Box::new(Encoder {
        names: Names {
            stem: "encoder.albert_layer_groups.",
            ..bert.names
        },
        embedding: Some((width, "encoder.embedding_hidden_mapping_in")),
        layer: post_norm(
            bert.layer.attention.heads,
            bert.layer.norm,
            mlp,
            [
                "albert_layers.0.attention.query",
                "albert_layers.0.attention.key",
                "albert_layers.0.attention.value",
            ],
            [
                "albert_layers.0.attention.dense",
                "albert_layers.0.attention.LayerNorm",
                "albert_layers.0.full_layer_layer_norm",
            ],
        ),
        layers: own,
        ..bert
    }))
}
