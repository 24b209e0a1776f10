//! How a model's numbers are stored and rounded where no plan chooses for each weight: weights, activations, keys and values. All
//! that is said of a program, in one place and one order. Knows neither targets nor kernels.

use crate::{
    CompileError,
    compress::{self, ActivationType, CacheType, Rounding},
    models::ModelError,
};
use ir::{DType, Program};

/// How weights are stored in the artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// In the checkpoint's element types, wherever that is exact.
    #[default]
    Stored,
    /// Widened to f32: larger, but nothing is widened while running.
    F32,
    /// Those of products rounded to floats of another type.
    Float(DType),
    /// Those of products rounded to few bits.
    Rounded(Rounding),
}

/// See the module's text; by default everything is as the model's files have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precision {
    /// How weights are stored.
    pub weights: Weights,
    /// How activations are rounded.
    pub activations: ActivationType,
    /// How keys and values are kept.
    pub cache: CacheType,
}

impl Precision {
    /// Whether anything is rounded, so that the model computes other numbers than its files say.
    pub fn rounds(&self) -> bool {
        matches!(self.weights, Weights::Float(_) | Weights::Rounded(_))
            || self.activations != ActivationType::F32
            || self.cache != CacheType::F32
    }

    /// Says it in a program, as its family built it. `vocabulary` tells the head.
    ///
    /// # Errors
    /// A program in which something cannot be said, e.g. a narrow cache of keys that hold positions.
    pub fn apply(&self, program: &mut Program, vocabulary: usize) -> Result<(), CompileError> {
        match self.weights {
            Weights::Rounded(rounding) => rounding.apply(program, vocabulary)?,
            Weights::Float(to) => compress::round_weights(program, to).map_err(ModelError::from)?,
            Weights::Stored | Weights::F32 => {}
        }
        let rounded = self.activations.apply(program);
        rounded.map_err(ModelError::from)?;
        self.cache.apply(program)?;
        Ok(())
    }
}
