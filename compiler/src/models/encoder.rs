//! The encoder that most families are variations of: learned positions, both directions, norms after each block, and
//! one of a few heads. A family reads its config into one, with its own names of tensors.

use super::{
    Architecture, ModelError, Outline,
    blocks::{Activation, Heads, Mlp, Norm},
    draft::{Draft, Size},
    pooling::Pooling,
};
use crate::checkpoint::Checkpoint;
use ir::{
    Operand, Positions, Program, Task, feed,
    ops::{Gather, Linear, Tanh},
};

/// Fewest tokens that a step has room for: several short sequences.
const STEP: usize = 1024;

/// See the module's text. Layers have biases everywhere.
pub(super) struct Encoder {
    /// Prefix of the tensors that are there whatever the head.
    pub(super) backbone: &'static str,
    pub(super) names: Names,
    pub(super) vocabulary: Size,
    pub(super) hidden: Size,
    /// Rows of the position table.
    pub(super) positions: Size,
    /// Rows of the segment table; 0 for none.
    pub(super) token_types: Size,
    /// How positions are counted.
    pub(super) numbering: Positions,
    /// Longest sequence.
    pub(super) context: usize,
    pub(super) layers: usize,
    pub(super) heads: Heads,
    pub(super) norm: Norm,
    pub(super) mlp: Mlp,
    pub(super) head: Head,
}

/// What a family calls the tensors of a layer, those of its feed-forward part apart.
pub(super) struct Names {
    /// What comes before a layer's number, backbone included.
    pub(super) stem: &'static str,
    /// Projections to queries, keys and values.
    pub(super) projections: [&'static str; 3],
    /// Projection of what attention found.
    pub(super) output: &'static str,
    /// The norm after attention.
    pub(super) attention_norm: &'static str,
    /// The norm after the feed-forward part.
    pub(super) norm: &'static str,
}

/// What stands on the last layer.
pub(super) enum Head {
    /// Nothing but what the checkpoint may have: a pooler (`tanh` of this projection of the first row), and a
    /// sentence-transformers pooling.
    Bare { pooler: Option<&'static str> },
    /// The projection `classifier` of each row.
    Tokens { labels: Vec<String> },
    /// Of each sequence's first row, a projection, a nonlinearity and another projection.
    Sequences {
        dense: &'static str,
        activation: Activation,
        out: &'static str,
        labels: Vec<String>,
    },
    /// Of each row, a projection, a nonlinearity, a norm and the vocabulary's table.
    Words {
        dense: &'static str,
        activation: Activation,
        norm: &'static str,
        /// In full: the embedding table where it is tied.
        table: &'static str,
        /// The table's bias goes by two names; older checkpoints have only the first, and some hold it twice.
        bias: [&'static str; 2],
    },
}

impl Encoder {
    fn embed(&self, draft: &mut Draft) -> Result<Operand, ModelError> {
        let mut b = draft.block(format!("{}embeddings.", self.backbone));
        let tokens = b.feed(feed::TOKENS);
        let mut x = b.embedding("word_embeddings", &self.vocabulary, &self.hidden, tokens)?;
        if self.token_types.n > 0 {
            let types = b.feed(feed::TOKEN_TYPES);
            let table = "token_type_embeddings";
            let found = b.embedding(table, &self.token_types, &self.hidden, types)?;
            x = b.sum(x, found)?;
        }
        let positions = b.feed(feed::POSITIONS);
        let found = b.embedding(
            "position_embeddings",
            &self.positions,
            &self.hidden,
            positions,
        )?;
        let x = b.sum(x, found)?;
        let x = b.norm("LayerNorm", x, self.norm)?;
        Ok(b.finish("embed", &[x]).swap_remove(0))
    }

    fn layer(&self, draft: &mut Draft, index: usize, x: &Operand) -> Result<Operand, ModelError> {
        let names = &self.names;
        let mut b = draft.layer(names.stem, index);
        let x = b.take("x", x);
        let projections = names.projections.map(|name| (name, true));
        let projected = b.project(x, projections, &self.heads)?;
        let found = b.attend(projected, self.heads.scale(), None)?;
        let found = b.linear(names.output, found, &self.hidden, true)?;
        let x = b.sum(x, found)?;
        let x = b.norm(names.attention_norm, x, self.norm)?;
        let inner = b.mlp(x, &self.mlp)?;
        let x = b.sum(x, inner)?;
        let x = b.norm(names.norm, x, self.norm)?;
        Ok(b.finish("layer", &[x]).swap_remove(0))
    }

    /// A projection and a nonlinearity of each sequence's first row, and another projection where there is one.
    fn first(
        &self,
        draft: &mut Draft,
        x: &Operand,
        (dense, activation): (&str, &Activation),
        out: Option<(&str, &Size)>,
    ) -> Result<Operand, ModelError> {
        let mut b = draft.block("");
        let x = b.take("x", x);
        let starts = b.feed(feed::STARTS);
        let first = b.op(Gather, &[x, starts])?;
        let pooled = b.linear(dense, first, &self.hidden, true)?;
        let pooled = b.activate(activation, pooled)?;
        let (name, y) = match out {
            None => ("pooler", pooled),
            Some((out, labels)) => ("head", b.linear(out, pooled, labels, true)?),
        };
        Ok(b.finish(name, &[y]).swap_remove(0))
    }

    /// Adds the head's outputs, of which `x` are the last layer's rows. Returns the task, and the longest sequence
    /// that the head is made for.
    fn head(&self, draft: &mut Draft, x: Operand) -> Result<(Task, usize), ModelError> {
        let mut context = self.context;
        let (task, logits) = match &self.head {
            Head::Bare { pooler } => {
                let pooling = Pooling::read(draft.checkpoint)?;
                draft.output("last_hidden_state", x.clone());
                if let Some(pooler) = pooler
                    && draft.has(&format!("{pooler}.weight"))?
                {
                    let pooled = self.first(draft, &x, (pooler, &Activation::from(Tanh)), None)?;
                    draft.output("pooler_output", pooled);
                }
                if let Some(pooling) = &pooling {
                    let mut b = draft.block("");
                    let x = b.take("x", &x);
                    let embedding = pooling.apply(&mut b, x)?;
                    let embedding = b.finish("pooling", &[embedding]).swap_remove(0);
                    draft.output("embedding", embedding);
                    context = context.min(pooling.context.unwrap_or(context));
                }
                let normalize = pooling.is_some_and(|p| p.normalize);
                return Ok((Task::Embedding { normalize }, context));
            }
            Head::Tokens { labels } => {
                let mut b = draft.block("");
                let x = b.take("x", &x);
                let logits = b.linear("classifier", x, &classes(labels), true)?;
                let labels = labels.clone();
                let logits = b.finish("head", &[logits]).swap_remove(0);
                (Task::TokenClassification { labels }, logits)
            }
            Head::Sequences {
                dense,
                activation,
                out,
                labels,
            } => {
                let out = Some((*out, &classes(labels)));
                let logits = self.first(draft, &x, (dense, activation), out)?;
                let labels = labels.clone();
                (Task::SequenceClassification { labels }, logits)
            }
            Head::Words {
                dense,
                activation,
                norm,
                table,
                bias,
            } => {
                let second = !draft.has(bias[0])? && draft.has(bias[1])?;
                let mut b = draft.block("");
                let x = b.take("x", &x);
                let x = b.linear(dense, x, &self.hidden, true)?;
                let x = b.activate(activation, x)?;
                let x = b.norm(norm, x, self.norm)?;
                let table = b.weight(table, &[&self.vocabulary, &self.hidden])?;
                let logits = b.op(Linear, &[x, table])?;
                let bias = b.weight(bias[usize::from(second)], &[&self.vocabulary])?;
                let logits = b.sum(logits, bias)?;
                let logits = b.finish("head", &[logits]).swap_remove(0);
                (Task::MaskedLm, logits)
            }
        };
        draft.output("logits", logits);
        Ok((task, context))
    }
}

impl Architecture for Encoder {
    fn build(&self, checkpoint: &Checkpoint) -> Result<(Program, Outline), ModelError> {
        let mut draft = Draft::new(checkpoint, self.backbone, STEP.max(self.context));
        let mut x = self.embed(&mut draft)?;
        for index in 0..self.layers {
            x = self.layer(&mut draft, index, &x)?;
        }
        let (task, context) = self.head(&mut draft, x)?;
        let outline = Outline {
            task,
            vocabulary: self.vocabulary.n,
            token_types: self.token_types.n,
            context,
            layers: self.layers,
            hidden: self.hidden.n,
            positions: self.numbering,
        };
        Ok((draft.finish()?, outline))
    }
}

fn classes(labels: &[String]) -> Size {
    Size::new(labels.len(), "classes in id2label")
}
