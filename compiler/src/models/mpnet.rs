//! MPNet (arXiv 2004.09297): BERT without segments, with scores that depend on distance, and RoBERTa's positions.

use super::{
    Architecture, Family, ModelError,
    bias::{Bias, Relative},
    draft::Size,
    encoder::{Encoder, post_norm},
    head::{Head, Rows, Transform},
    roberta,
};
use crate::checkpoint::Config;
use ir::ops::{Gelu, Tanh};

/// Id of the padding token, whatever the config says.
const PAD: usize = 1;

/// Longest sequence: biases of all pairs of positions are a table.
const LONGEST: usize = 2048;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "mpnet",
    architectures: &[
        "MPNetModel",
        "MPNetForTokenClassification",
        "MPNetForSequenceClassification",
        "MPNetForMaskedLM",
        "MPNetForQuestionAnswering",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let head = match config.architecture()? {
        "MPNetForTokenClassification" => {
            Head::classes(Rows::Each, None, "classifier", config.labels()?)
        }
        "MPNetForSequenceClassification" => {
            let dense = Transform::plain("classifier.dense", Tanh);
            let labels = config.labels()?;
            Head::classes(Rows::First, Some(dense), "classifier.out_proj", labels)
        }
        "MPNetForQuestionAnswering" => Head::answers(None, "qa_outputs"),
        "MPNetForMaskedLM" => Head::words(
            Transform {
                norm: Some("lm_head.layer_norm"),
                ..Transform::plain("lm_head.dense", Gelu)
            },
            match config.bool_or("tie_word_embeddings", true)? {
                true => "mpnet.embeddings.word_embeddings.weight",
                false => "lm_head.decoder.weight",
            },
            Some(["lm_head.bias", "lm_head.decoder.bias"]),
        ),
        _ => Head::Bare {
            pooler: Some("mpnet.pooler.dense"),
        },
    };
    const BUCKETS: &str = "relative_attention_num_buckets";
    if config.usize_or(BUCKETS, Relative::BUCKETS)? != Relative::BUCKETS {
        let expected = Relative::BUCKETS.to_string();
        return Err(config.invalid(BUCKETS, expected).into());
    }
    let bert = super::bert::encoder(config, "mpnet.", head)?;
    let bert = roberta::after_padding(config, bert, PAD)?;
    if bert.context > LONGEST {
        let expected = format!("at most {LONGEST} and {} more", PAD + 1);
        return Err(config.invalid("max_position_embeddings", expected).into());
    }
    let mut layer = post_norm(
        bert.layer.attention.heads,
        bert.layer.norm,
        bert.layer.mlp,
        ["attention.attn.q", "attention.attn.k", "attention.attn.v"],
        [
            "attention.attn.o",
            "attention.LayerNorm",
            "output.LayerNorm",
        ],
    );
    layer.attention.bias = Some(Bias::Relative(Relative {
        name: "mpnet.encoder.relative_attention_bias.weight",
        context: bert.context,
    }));
    Ok(Box::new(Encoder {
        token_types: Size::new(0, "segments"),
        layer,
        ..bert
    }))
}
