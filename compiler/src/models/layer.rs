//! A layer: attention and a feed-forward part around a residual. Where its norms stand, and whether the parts run one
//! after the other, is what families differ in.

use super::{
    ModelError,
    attention::{Attention, Span},
    blocks::{Mlp, Norm},
    draft::Block,
    experts::Experts,
    rotation::Rotation,
};
use ir::Value;

/// See the module's text.
pub(super) struct Layer {
    /// What all its norms are.
    pub(super) norm: Norm,
    pub(super) attention: Attention,
    pub(super) attention_norms: Norms,
    pub(super) mlp: Mlp,
    pub(super) mlp_norms: Norms,
    /// Whether both parts read the layer's input, rather than the second the sum that the first leaves.
    pub(super) parallel: bool,
    /// What each part is multiplied by before it is added.
    pub(super) residual: f64,
}

/// The norms of one part, by name; `None` where there is none.
#[derive(Clone, Copy, Default)]
pub(super) struct Norms {
    /// Of what the part reads.
    pub(super) before: Option<&'static str>,
    /// Of what it gives, before that is added.
    pub(super) after: Option<&'static str>,
    /// Of the sum.
    pub(super) sum: Option<&'static str>,
}

impl Norms {
    /// One of what the part reads (arXiv 2002.04745).
    pub(super) fn before(name: &'static str) -> Norms {
        Norms {
            before: Some(name),
            ..Norms::default()
        }
    }

    /// One of the sum, as in the first transformers (arXiv 1706.03762).
    pub(super) fn sum(name: &'static str) -> Norms {
        Norms {
            sum: Some(name),
            ..Norms::default()
        }
    }
}

/// What one layer has of its own.
pub(super) struct Own<'a> {
    pub(super) span: Span,
    /// Norms of attention, where they are not those of the other layers.
    pub(super) attention_norms: Option<Norms>,
    /// Instead of the feed-forward part.
    pub(super) experts: Option<&'a Experts>,
}

impl Layer {
    /// `x` through the layer, with what it has of its own.
    pub(super) fn apply(
        &self,
        b: &mut Block,
        x: Value,
        rotation: Option<Rotation>,
        own: Own,
    ) -> Result<Value, ModelError> {
        let norms = own.attention_norms.unwrap_or(self.attention_norms);
        let h = self.normed(b, norms.before, x)?;
        let found = b.attention(h, &self.attention, rotation, own.span)?;
        let found = self.normed(b, norms.after, found)?;
        let found = b.scaled(found, self.residual)?;
        let sum = b.sum(x, found)?;
        let sum = self.normed(b, norms.sum, sum)?;

        let norms = self.mlp_norms;
        let h = self.normed(b, norms.before, if self.parallel { x } else { sum })?;
        let h = match own.experts {
            Some(experts) => b.experts(h, experts)?,
            None => b.mlp(h, &self.mlp)?,
        };
        let h = self.normed(b, norms.after, h)?;
        let h = b.scaled(h, self.residual)?;
        let sum = b.sum(sum, h)?;
        self.normed(b, norms.sum, sum)
    }

    fn normed(
        &self,
        b: &mut Block,
        name: Option<&'static str>,
        x: Value,
    ) -> Result<Value, ModelError> {
        name.map_or(Ok(x), |name| b.norm(name, x, self.norm))
    }
}
