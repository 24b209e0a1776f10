//! RoBERTa (arXiv 1907.11692) and XLM-RoBERTa: BERT with other positions and heads.

use super::{
    Architecture, Family, ModelError,
    encoder::Encoder,
    head::{Head, Rows, Transform},
};
use crate::checkpoint::Config;
use ir::{
    Positions,
    ops::{Gelu, Tanh},
};

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "roberta",
    architectures: &[
        "RobertaModel",
        "RobertaForTokenClassification",
        "RobertaForSequenceClassification",
        "RobertaForMaskedLM",
        "RobertaForQuestionAnswering",
        "XLMRobertaModel",
        "XLMRobertaForTokenClassification",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaForMaskedLM",
        "XLMRobertaForQuestionAnswering",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let architecture = config.architecture()?;
    let head = match architecture.strip_prefix("XLM").unwrap_or(architecture) {
        "RobertaForTokenClassification" => {
            Head::classes(Rows::Each, None, "classifier", config.labels()?)
        }
        "RobertaForSequenceClassification" => {
            let dense = Transform::plain("classifier.dense", Tanh);
            let labels = config.labels()?;
            Head::classes(Rows::First, Some(dense), "classifier.out_proj", labels)
        }
        "RobertaForQuestionAnswering" => Head::answers(None, "qa_outputs"),
        "RobertaForMaskedLM" => Head::words(
            Transform {
                norm: Some("lm_head.layer_norm"),
                ..Transform::plain("lm_head.dense", Gelu)
            },
            match config.bool_or("tie_word_embeddings", true)? {
                true => "roberta.embeddings.word_embeddings.weight",
                false => "lm_head.decoder.weight",
            },
            Some(["lm_head.bias", "lm_head.decoder.bias"]),
        ),
        _ => Head::Bare {
            pooler: Some("roberta.pooler.dense"),
        },
    };
    let encoder = super::bert::encoder(config, "roberta.", head)?;
    let pad = config.usize_or("pad_token_id", 1)?;
    Ok(Box::new(after_padding(config, encoder, pad)?))
}

/// The encoder with positions that are counted from the one after that of the padding token, `pad`.
pub(super) fn after_padding(
    config: &Config,
    encoder: Encoder,
    pad: usize,
) -> Result<Encoder, ModelError> {
    let rows = encoder.positions.n;
    let context = rows.checked_sub(pad + 1).filter(|n| *n > 0);
    let number = i32::try_from(pad).ok();
    let (Some(context), Some(pad)) = (context, number) else {
        let expected = format!(
            "an id below max_position_embeddings - 1, which is {}",
            rows - 1
        );
        return Err(config.invalid("pad_token_id", expected).into());
    };
    Ok(Encoder {
        numbering: Positions::NonPadding { pad },
        context,
        ..encoder
    })
}
