//! The encoder that most families are variations of: layers that look both ways, between an embedding and one of a few
//! heads. A family reads its config into one, with its own names of tensors.

use super::{
    Architecture, ModelError, Outline,
    attention::{Attention, Heads, Projections, Span},
    blocks::{Mlp, Norm},
    draft::{Draft, Size},
    head::{Head, Sizes},
    layer::{self, Layer, Norms},
    rope::Frequencies,
};
use crate::checkpoint::Checkpoint;
use ir::{Image, Operand, Positions, Program, feed};

/// Fewest tokens that a step of a CPU has room for: several short sequences.
const STEP: usize = 1024;

/// See the module's text.
pub(super) struct Encoder {
    pub(super) names: Names,
    /// What is seen, where that is images; no words then.
    pub(super) image: Option<Image>,
    pub(super) vocabulary: Size,
    pub(super) hidden: Size,
    /// Width of the embedding tables, and the projection from it where it is not that of layers.
    pub(super) embedding: Option<(Size, &'static str)>,
    /// Rows of the position table; 0 for none.
    pub(super) positions: Size,
    /// Rows of the segment table; 0 for none.
    pub(super) token_types: Size,
    /// How positions are counted.
    pub(super) numbering: Positions,
    /// Longest sequence.
    pub(super) context: usize,
    /// The rotations that layers choose from.
    pub(super) ropes: Vec<Frequencies>,
    /// What all layers have in common.
    pub(super) layer: Layer,
    /// What each has of its own.
    pub(super) layers: Vec<Own>,
    pub(super) head: Head,
}

/// What a family calls the tensors that are in no layer.
pub(super) struct Names {
    /// Prefix of the tensors that are there whatever the head.
    pub(super) backbone: &'static str,
    /// The table of words, in `embeddings`.
    pub(super) words: &'static str,
    /// The norm of embeddings, in `embeddings`, if any.
    pub(super) embedding_norm: Option<&'static str>,
    /// What comes before a layer's number, backbone left out.
    pub(super) stem: &'static str,
    /// The norm after the last layer, if any, backbone left out.
    pub(super) norm: Option<&'static str>,
}

/// What a layer has of its own.
#[derive(Clone, Copy)]
pub(super) struct Own {
    /// Number of its tensors: layers may share them.
    pub(super) index: usize,
    /// See [`Span`].
    pub(super) span: Span,
    /// Index of its rotation, if it has one.
    pub(super) rope: Option<usize>,
    /// Whether its input is normalised where layers do that.
    pub(super) normed: bool,
}

impl Own {
    /// Layers of tensors of their own, which see everything.
    pub(super) fn plain(layers: usize) -> Vec<Own> {
        let own = |index| Own {
            index,
            span: Span::All,
            rope: None,
            normed: true,
        };
        (0..layers).map(own).collect()
    }
}

/// A layer as BERT has it, with biases everywhere and norms of sums: of these heads and norms, with tensors called
/// so: three projections, the one of what was found, the norm of attention and that of the feed-forward part.
pub(super) fn post_norm(
    heads: Heads,
    norm: Norm,
    mlp: Mlp,
    projections: [&'static str; 3],
    [output, attention_norm, mlp_norm]: [&'static str; 3],
) -> Layer {
    Layer {
        norm,
        attention: Attention {
            projections: Projections::Apart(projections),
            input_bias: true,
            output_bias: true,
            ..Attention::plain(heads, output)
        },
        attention_norms: Norms::sum(attention_norm),
        mlp,
        mlp_norms: Norms::sum(mlp_norm),
        parallel: false,
        residual: 1.0,
    }
}

impl Encoder {
    /// Width of the embedding tables.
    fn width(&self) -> &Size {
        self.embedding.as_ref().map_or(&self.hidden, |e| &e.0)
    }

    /// Embeddings `[T, H]`, and the cosines and sines of the tokens' angles by each rotation.
    fn embed(&self, draft: &mut Draft) -> Result<(Operand, Vec<[Operand; 2]>), ModelError> {
        let backbone = self.names.backbone;
        let mut b = draft.block(format!("{backbone}embeddings."));
        let width = self.width();
        let mut x = match &self.image {
            Some(image) => b.pictured(image, width)?,
            None => {
                let tokens = b.feed(feed::TOKENS);
                b.embedding(self.names.words, &self.vocabulary, width, tokens)?
            }
        };
        if self.token_types.n > 0 {
            let types = b.feed(feed::TOKEN_TYPES);
            let table = "token_type_embeddings";
            let found = b.embedding(table, &self.token_types, width, types)?;
            x = b.sum(x, found)?;
        }
        if self.positions.n > 0 {
            let positions = b.feed(feed::POSITIONS);
            let found = b.embedding("position_embeddings", &self.positions, width, positions)?;
            x = b.sum(x, found)?;
        }
        if let Some(name) = self.names.embedding_norm {
            x = b.norm(name, x, self.layer.norm)?;
        }
        if let Some((_, into)) = self.embedding {
            b.rescope(backbone);
            x = b.linear(into, x, &self.hidden, true)?;
        }
        b.embedded(x, &self.ropes)
    }

    fn layer(
        &self,
        draft: &mut Draft,
        own: &Own,
        x: &Operand,
        rotations: &[[Operand; 2]],
    ) -> Result<Operand, ModelError> {
        let stem = format!("{}{}", self.names.backbone, self.names.stem);
        let mut b = draft.layer(&stem, own.index);
        let x = b.take("x", x);
        let rotation = own.rope.map(|i| b.take_rotation(&rotations[i]));
        let parts = layer::Own {
            span: own.span,
            attention_norms: (!own.normed).then(Norms::default),
            experts: None,
        };
        let x = self.layer.apply(&mut b, x, rotation, parts)?;
        Ok(b.finish("layer", &[x]).swap_remove(0))
    }
}

impl Architecture for Encoder {
    fn build(
        &self,
        checkpoint: &Checkpoint,
        times: usize,
    ) -> Result<(Program, Outline), ModelError> {
        let tokens = STEP.max(self.context) * times;
        let backbone = self.names.backbone;
        let mut draft = Draft::new(checkpoint, backbone, [tokens, tokens]);
        let (mut x, rotations) = self.embed(&mut draft)?;
        for own in &self.layers {
            x = self.layer(&mut draft, own, &x, &rotations)?;
        }
        if let Some(name) = self.names.norm {
            let mut b = draft.block(backbone);
            let rows = b.take("x", &x);
            let rows = b.norm(name, rows, self.layer.norm)?;
            x = b.finish("norm", &[rows]).swap_remove(0);
        }
        let sizes = Sizes {
            vocabulary: &self.vocabulary,
            embedding: self.width(),
            hidden: &self.hidden,
        };
        let head = self.head.build(&mut draft, &x, &sizes, self.layer.norm);
        let (task, context) = head?;
        let outline = Outline {
            task,
            vocabulary: self.vocabulary.n,
            token_types: self.token_types.n,
            context: context.map_or(self.context, |c| c.min(self.context)),
            layers: self.layers.len(),
            hidden: self.hidden.n,
            positions: self.numbering,
            image: self.image.clone(),
        };
        Ok((draft.finish()?, outline))
    }
}
