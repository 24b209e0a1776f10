//! Heads of encoders: what stands on the last layer's rows. Knows the rows; not how they came about.

use super::{
    ModelError,
    blocks::{Activation, Norm},
    draft::{Block, Draft, Size},
    pooling::Pooling,
};
use ir::{
    Classes, Operand, Task, Value, feed,
    ops::{Gather, Linear, MeanRows, Tanh},
};

/// See the module's text.
pub(super) enum Head {
    /// Nothing but what the checkpoint may have: a pooler (`tanh` of this projection of the first row), and a
    /// sentence-transformers pooling.
    Bare { pooler: Option<&'static str> },
    /// Logits of some rows, after a transformation where there is one.
    Logits {
        rows: Rows,
        transform: Option<Transform>,
        of: Logits,
    },
}

/// Which rows have logits.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Rows {
    /// Each token's.
    Each,
    /// The first of each sequence.
    First,
    /// The mean of each sequence's.
    Mean,
}

/// What logits are of.
pub(super) enum Logits {
    /// Classes, by the projection of this name.
    Classes(&'static str, Vec<String>),
    /// An answer's start and end, by the projection of this name.
    Answers(&'static str),
    /// The vocabulary, by a table, in full: the embedding table where it is tied. Its bias goes by two names; older
    /// checkpoints have only the first, and some hold it twice.
    Words(&'static str, Option<[&'static str; 2]>),
}

/// A projection, a nonlinearity and perhaps a norm.
pub(super) struct Transform {
    pub(super) dense: &'static str,
    pub(super) bias: bool,
    pub(super) activation: Activation,
    pub(super) norm: Option<&'static str>,
}

impl Transform {
    /// Without a norm.
    pub(super) fn plain(dense: &'static str, activation: impl Into<Activation>) -> Transform {
        Transform {
            dense,
            bias: true,
            activation: activation.into(),
            norm: None,
        }
    }

    fn apply(&self, b: &mut Block, x: Value, out: &Size, norm: Norm) -> Result<Value, ModelError> {
        let x = b.linear(self.dense, x, out, self.bias)?;
        let x = b.activate(&self.activation, x)?;
        self.norm.map_or(Ok(x), |name| b.norm(name, x, norm))
    }
}

/// Sizes of what a head meets.
pub(super) struct Sizes<'a> {
    pub(super) vocabulary: &'a Size,
    /// Width of the embedding table.
    pub(super) embedding: &'a Size,
    /// Width of rows.
    pub(super) hidden: &'a Size,
}

impl Head {
    /// The head `rows` of classes, by a projection `out`.
    pub(super) fn classes(
        rows: Rows,
        transform: Option<Transform>,
        out: &'static str,
        labels: Vec<String>,
    ) -> Head {
        Head::Logits {
            rows,
            transform,
            of: Logits::Classes(out, labels),
        }
    }

    /// The head of answers, by a projection `out` of each row.
    pub(super) fn answers(transform: Option<Transform>, out: &'static str) -> Head {
        Head::Logits {
            rows: Rows::Each,
            transform,
            of: Logits::Answers(out),
        }
    }

    /// The head of words.
    pub(super) fn words(
        transform: Transform,
        table: &'static str,
        bias: Option<[&'static str; 2]>,
    ) -> Head {
        Head::Logits {
            rows: Rows::Each,
            transform: Some(transform),
            of: Logits::Words(table, bias),
        }
    }

    /// Adds the head's outputs, of which `x` are the last layer's rows. Returns the task, and the longest sequence that
    /// the head is made for, if it says so.
    pub(super) fn build(
        &self,
        draft: &mut Draft,
        x: &Operand,
        sizes: &Sizes,
        norm: Norm,
    ) -> Result<(Task, Option<usize>), ModelError> {
        match self {
            Head::Bare { pooler } => bare(draft, x, *pooler, sizes.hidden),
            Head::Logits {
                rows,
                transform,
                of,
            } => {
                let second = match of {
                    Logits::Words(_, Some([a, b])) => !draft.has(a)? && draft.has(b)?,
                    _ => false,
                };
                let mut b = draft.block("");
                let x = b.take("x", x);
                let mut x = b.chosen(x, *rows)?;
                if let Some(transform) = transform {
                    let out = match of {
                        Logits::Words(..) => sizes.embedding,
                        _ => sizes.hidden,
                    };
                    x = transform.apply(&mut b, x, out, norm)?;
                }
                let (logits, task) = match of {
                    Logits::Classes(out, labels) => {
                        let classes = Size::new(labels.len(), "classes in id2label");
                        let labels = labels.clone();
                        let task = match rows {
                            Rows::Each => Task::TokenClassification { labels },
                            _ => Task::SequenceClassification {
                                labels,
                                classes: Classes::Exclusive,
                            },
                        };
                        (b.linear(out, x, &classes, true)?, task)
                    }
                    Logits::Answers(out) => {
                        let ends = Size::new(2, "start and end");
                        (b.linear(out, x, &ends, true)?, Task::QuestionAnswering)
                    }
                    Logits::Words(table, bias) => {
                        let table = b.weight(table, &[sizes.vocabulary, sizes.embedding])?;
                        let mut logits = b.op(Linear, &[x, table])?;
                        if let Some(names) = bias {
                            let bias = b.weight(names[usize::from(second)], &[sizes.vocabulary])?;
                            logits = b.sum(logits, bias)?;
                        }
                        (logits, Task::MaskedLm)
                    }
                };
                let logits = b.finish("head", &[logits]).swap_remove(0);
                draft.output("logits", logits);
                Ok((task, None))
            }
        }
    }
}

impl Block<'_, '_> {
    fn chosen(&mut self, x: Value, rows: Rows) -> Result<Value, ModelError> {
        match rows {
            Rows::Each => Ok(x),
            Rows::First => {
                let starts = self.feed(feed::STARTS);
                self.op(Gather, &[x, starts])
            }
            Rows::Mean => {
                let (starts, ends) = (self.feed(feed::STARTS), self.feed(feed::ENDS));
                self.op(MeanRows, &[x, starts, ends])
            }
        }
    }
}

/// The outputs of a model without a head.
fn bare(
    draft: &mut Draft,
    x: &Operand,
    pooler: Option<&str>,
    hidden: &Size,
) -> Result<(Task, Option<usize>), ModelError> {
    let pooling = Pooling::read(draft.checkpoint)?;
    draft.output("last_hidden_state", x.clone());
    if let Some(pooler) = pooler
        && draft.has(&format!("{pooler}.weight"))?
    {
        let mut b = draft.block("");
        let x = b.take("x", x);
        let first = b.chosen(x, Rows::First)?;
        let pooled = b.linear(pooler, first, hidden, true)?;
        let pooled = b.op(Tanh, &[pooled])?;
        let pooled = b.finish("pooler", &[pooled]).swap_remove(0);
        draft.output("pooler_output", pooled);
    }
    if let Some(pooling) = &pooling {
        let mut b = draft.block("");
        let x = b.take("x", x);
        let embedding = pooling.apply(&mut b, x)?;
        let embedding = b.finish("pooling", &[embedding]).swap_remove(0);
        draft.output("embedding", embedding);
    }
    let normalize = pooling.is_some_and(|p| p.normalize);
    let context = pooling.and_then(|p| p.context);
    Ok((Task::Embedding { normalize }, context))
}
