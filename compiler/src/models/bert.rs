//! BERT (arXiv 1810.04805): bidirectional, normalised after each block, with learned positions and segments.

use super::{
    Architecture, Family, ModelError, Outline,
    blocks::{Activation, Heads, Mlp, Norm, positive},
    draft::{Draft, Size},
    pooling::Pooling,
};
use crate::checkpoint::{Checkpoint, Config};
use ir::{
    Operand, Positions, Program, Task, feed,
    ops::{Gather, Linear, Tanh},
};

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

/// Fewest tokens that a step has room for: several short sequences.
const STEP: usize = 1024;

struct Bert {
    vocabulary: Size,
    hidden: Size,
    positions: Size,
    token_types: Size,
    layers: usize,
    heads: Heads,
    norm: Norm,
    mlp: Mlp,
    head: Head,
}

/// What stands on the last layer.
enum Head {
    /// Nothing, or the pooler, or a sentence-transformers pooling: whatever the checkpoint has.
    Bare,
    Tokens(Vec<String>),
    Sequences(Vec<String>),
    Words {
        tied: bool,
    },
}

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let refuse = |key, expected: &str| Err(config.invalid(key, expected).into());
    if config.str_or("position_embedding_type", "absolute")? != "absolute" {
        return refuse("position_embedding_type", "absolute");
    }
    for key in ["is_decoder", "add_cross_attention"] {
        if config.bool_or(key, false)? {
            return refuse(key, "false: BERT is built as an encoder only");
        }
    }
    let heads = config.usize("num_attention_heads")?;
    let eps = positive(config, "layer_norm_eps", 1e-12)?;
    Ok(Box::new(Bert {
        vocabulary: Size::read(config, "vocab_size")?,
        hidden: Size::read(config, "hidden_size")?,
        positions: Size::new(
            config.usize_or("max_position_embeddings", 512)?,
            "max_position_embeddings",
        ),
        token_types: Size::new(config.usize_or("type_vocab_size", 2)?, "type_vocab_size"),
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
        head: match config.architecture()? {
            "BertForTokenClassification" => Head::Tokens(config.labels()?),
            "BertForSequenceClassification" => Head::Sequences(config.labels()?),
            "BertForMaskedLM" => Head::Words {
                tied: config.bool_or("tie_word_embeddings", true)?,
            },
            _ => Head::Bare,
        },
    }))
}

impl Bert {
    fn embed(&self, draft: &mut Draft) -> Result<Operand, ModelError> {
        let mut b = draft.block("bert.embeddings.");
        let tables = [
            ("word_embeddings", &self.vocabulary, feed::TOKENS),
            (
                "token_type_embeddings",
                &self.token_types,
                feed::TOKEN_TYPES,
            ),
            ("position_embeddings", &self.positions, feed::POSITIONS),
        ];
        let mut x = None;
        for (name, rows, ids) in tables.into_iter().filter(|(_, rows, _)| rows.n > 0) {
            let ids = b.feed(ids);
            let found = b.embedding(name, rows, &self.hidden, ids)?;
            x = Some(match x {
                None => found,
                Some(x) => b.sum(x, found)?,
            });
        }
        let x = x.expect("a vocabulary is not empty");
        let x = b.norm("LayerNorm", x, self.norm)?;
        Ok(b.finish("embed", &[x]).swap_remove(0))
    }

    fn layer(&self, draft: &mut Draft, index: usize, x: &Operand) -> Result<Operand, ModelError> {
        let mut b = draft.layer("bert.encoder.layer.", index);
        let x = b.take("x", x);
        let names = [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
        ];
        let projected = b.project(x, names.map(|name| (name, true)), &self.heads)?;
        let found = b.attend(projected, self.heads.scale(), None)?;
        let found = b.linear("attention.output.dense", found, &self.hidden, true)?;
        let x = b.sum(x, found)?;
        let x = b.norm("attention.output.LayerNorm", x, self.norm)?;
        let inner = b.mlp(x, &self.mlp)?;
        let x = b.sum(x, inner)?;
        let x = b.norm("output.LayerNorm", x, self.norm)?;
        Ok(b.finish("layer", &[x]).swap_remove(0))
    }

    /// `tanh` of a projection of each sequence's first row, projected to `labels` where there are any.
    fn pooler(
        &self,
        draft: &mut Draft,
        x: &Operand,
        labels: Option<&Size>,
    ) -> Result<Operand, ModelError> {
        let mut b = draft.block("");
        let x = b.take("x", x);
        let starts = b.feed(feed::STARTS);
        let first = b.op(Gather, &[x, starts])?;
        let pooled = b.linear("bert.pooler.dense", first, &self.hidden, true)?;
        let pooled = b.op(Tanh, &[pooled])?;
        let (name, y) = match labels {
            None => ("pooler", pooled),
            Some(labels) => ("head", b.linear("classifier", pooled, labels, true)?),
        };
        Ok(b.finish(name, &[y]).swap_remove(0))
    }

    /// Logits of the word at each position.
    fn words(&self, draft: &mut Draft, x: &Operand, tied: bool) -> Result<Operand, ModelError> {
        // The bias goes by two names; older checkpoints have only the first, and some hold it twice.
        let names = ["cls.predictions.bias", "cls.predictions.decoder.bias"];
        let bias = match draft.has(names[0])? || !draft.has(names[1])? {
            true => names[0],
            false => names[1],
        };
        let mut b = draft.block("");
        let x = b.take("x", x);
        let x = b.linear("cls.predictions.transform.dense", x, &self.hidden, true)?;
        let x = b.activate(&self.mlp.activation, x)?;
        let x = b.norm("cls.predictions.transform.LayerNorm", x, self.norm)?;
        let table = match tied {
            true => "bert.embeddings.word_embeddings.weight",
            false => "cls.predictions.decoder.weight",
        };
        let table = b.weight(table, &[&self.vocabulary, &self.hidden])?;
        let logits = b.op(Linear, &[x, table])?;
        let bias = b.weight(bias, &[&self.vocabulary])?;
        let logits = b.sum(logits, bias)?;
        Ok(b.finish("head", &[logits]).swap_remove(0))
    }
}

impl Architecture for Bert {
    fn build(&self, checkpoint: &Checkpoint) -> Result<(Program, Outline), ModelError> {
        let mut context = self.positions.n;
        let mut draft = Draft::new(checkpoint, "bert.", STEP.max(context));
        let mut x = self.embed(&mut draft)?;
        for index in 0..self.layers {
            x = self.layer(&mut draft, index, &x)?;
        }
        let task = match &self.head {
            Head::Bare => {
                let pooling = Pooling::read(checkpoint)?;
                draft.output("last_hidden_state", x.clone());
                if draft.has("bert.pooler.dense.weight")? {
                    let pooled = self.pooler(&mut draft, &x, None)?;
                    draft.output("pooler_output", pooled);
                }
                if let Some(pooling) = pooling {
                    let mut b = draft.block("");
                    let x = b.take("x", &x);
                    let embedding = pooling.apply(&mut b, x)?;
                    let embedding = b.finish("pooling", &[embedding]).swap_remove(0);
                    draft.output("embedding", embedding);
                    context = context.min(pooling.context.unwrap_or(context));
                }
                Task::Embedding {
                    normalize: pooling.is_some_and(|p| p.normalize),
                }
            }
            Head::Tokens(labels) => {
                let mut b = draft.block("");
                let x = b.take("x", &x);
                let logits = b.linear("classifier", x, &classes(labels), true)?;
                let logits = b.finish("head", &[logits]).swap_remove(0);
                draft.output("logits", logits);
                Task::TokenClassification {
                    labels: labels.clone(),
                }
            }
            Head::Sequences(labels) => {
                let logits = self.pooler(&mut draft, &x, Some(&classes(labels)))?;
                draft.output("logits", logits);
                Task::SequenceClassification {
                    labels: labels.clone(),
                }
            }
            Head::Words { tied } => {
                let logits = self.words(&mut draft, &x, *tied)?;
                draft.output("logits", logits);
                Task::MaskedLm
            }
        };
        let outline = Outline {
            task,
            vocabulary: self.vocabulary.n,
            token_types: self.token_types.n,
            context,
            layers: self.layers,
            hidden: self.hidden.n,
            positions: Positions::Index,
        };
        Ok((draft.finish()?, outline))
    }
}

fn classes(labels: &[String]) -> Size {
    Size::new(labels.len(), "classes in id2label")
}
