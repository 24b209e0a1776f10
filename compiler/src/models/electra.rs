//! ELECTRA (arXiv 2003.10555): BERT with narrower embeddings and other heads.

use super::{
    Architecture, Family, ModelError,
    draft::Size,
    head::{Head, Rows, Transform},
};
use crate::checkpoint::Config;
use ir::ops::Gelu;

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "electra",
    architectures: &[
        "ElectraModel",
        "ElectraForTokenClassification",
        "ElectraForSequenceClassification",
        "ElectraForMaskedLM",
        "ElectraForQuestionAnswering",
    ],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let head = match config.architecture()? {
        "ElectraForTokenClassification" => {
            Head::classes(Rows::Each, None, "classifier", config.labels()?)
        }
        "ElectraForSequenceClassification" => {
            let dense = Transform::plain("classifier.dense", Gelu);
            let labels = config.labels()?;
            Head::classes(Rows::First, Some(dense), "classifier.out_proj", labels)
        }
        "ElectraForQuestionAnswering" => Head::answers(None, "qa_outputs"),
        "ElectraForMaskedLM" => Head::words(
            Transform {
                norm: Some("generator_predictions.LayerNorm"),
                ..Transform::plain("generator_predictions.dense", Gelu)
            },
            match config.bool_or("tie_word_embeddings", true)? {
                true => "electra.embeddings.word_embeddings.weight",
                false => "generator_lm_head.weight",
            },
            Some(["generator_lm_head.bias"; 2]),
        ),
        _ => Head::Bare { pooler: None },
    };
    let mut encoder = super::bert::encoder(config, "electra.", head)?;
    let width = Size::new(config.usize_or("embedding_size", 128)?, "embedding_size");
    encoder.embedding = (width.n != encoder.hidden.n).then_some((width, "embeddings_project"));
    Ok(Box::new(encoder))
}
