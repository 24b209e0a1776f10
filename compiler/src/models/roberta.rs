//! RoBERTa (arXiv 1907.11692) and XLM-RoBERTa: BERT with other positions and heads.

use super::{
    Architecture, Family, ModelError,
    blocks::Activation,
    encoder::{Encoder, Head, Names},
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
        "XLMRobertaModel",
        "XLMRobertaForTokenClassification",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaForMaskedLM",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let encoder = super::bert::encoder(config)?;
    let pad = config.usize_or("pad_token_id", 1)?;
    let rows = encoder.positions.n;
    // Positions are counted from the one after the padding token's.
    let context = rows.checked_sub(pad + 1).filter(|n| *n > 0);
    let number = i32::try_from(pad).ok();
    let (Some(context), Some(pad)) = (context, number) else {
        let expected = format!(
            "an id below max_position_embeddings - 1, which is {}",
            rows - 1
        );
        return Err(config.invalid("pad_token_id", expected).into());
    };
    let architecture = config.architecture()?;
    let head = match architecture.strip_prefix("XLM").unwrap_or(architecture) {
        "RobertaForTokenClassification" => Head::Tokens {
            labels: config.labels()?,
        },
        "RobertaForSequenceClassification" => Head::Sequences {
            dense: "classifier.dense",
            activation: Activation::from(Tanh),
            out: "classifier.out_proj",
            labels: config.labels()?,
        },
        "RobertaForMaskedLM" => Head::Words {
            dense: "lm_head.dense",
            activation: Activation::from(Gelu),
            norm: "lm_head.layer_norm",
            table: match config.bool_or("tie_word_embeddings", true)? {
                true => "roberta.embeddings.word_embeddings.weight",
                false => "lm_head.decoder.weight",
            },
            bias: ["lm_head.bias", "lm_head.decoder.bias"],
        },
        _ => Head::Bare {
            pooler: Some("roberta.pooler.dense"),
        },
    };
    Ok(Box::new(Encoder {
        backbone: "roberta.",
        names: Names {
            stem: "roberta.encoder.layer.",
            ..encoder.names
        },
        numbering: Positions::NonPadding { pad },
        context,
        head,
        ..encoder
    }))
}
