//! The blocks that models are made of: projections, norms, feed-forward layers, attention. Knows no family: what
//! differs between families is an argument.

use super::{
    ModelError,
    draft::{Block, Size},
    rope::Frequencies,
};
use crate::checkpoint::{CheckpointError, Config};
use ir::{
    DType, Float, Op, Value, feed,
    ops::{
        Attention, Cast, Const, Cos, Gather, Gelu, GeluTanh, LayerNorm, Linear, Max, Relu, Reshape,
        RmsNorm, Rope, Scatter, Silu, Sin, Sub,
    },
};

/// A nonlinearity between two projections.
#[derive(Clone, Debug)]
pub(super) struct Activation(Op);

impl Activation {
    /// The one that the config names at `key`.
    ///
    /// # Errors
    /// No activation goes by that name.
    pub(super) fn read(config: &Config, key: &str, default: &str) -> Result<Self, CheckpointError> {
        let op: Op = match config.str_or(key, default)? {
            "gelu" => Gelu.into(),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => GeluTanh.into(),
            "relu" => Relu.into(),
            "silu" | "swish" => Silu.into(),
            _ => {
                let known = "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, silu or swish";
                return Err(config.invalid(key, known));
            }
        };
        Ok(Activation(op))
    }
}

impl<T: Into<Op>> From<T> for Activation {
    fn from(op: T) -> Self {
        Activation(op.into())
    }
}

/// A normalisation of rows, with its learned gain, and bias where the kind has one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Norm {
    /// Root mean square; no bias.
    Rms {
        /// Added to the mean square.
        eps: f64,
    },
    /// Mean and variance.
    Layer {
        /// Added to the variance.
        eps: f64,
    },
}

/// The number at `key`, which must be positive.
pub(super) fn positive(config: &Config, key: &str, default: f64) -> Result<f64, CheckpointError> {
    let x = config.f64_or(key, default)?;
    if x > 0.0 && x.is_finite() {
        Ok(x)
    } else {
        Err(config.invalid(key, "a positive number"))
    }
}

/// A feed-forward layer: `down(act(up(x)))`, or `down(act(gate(x)) * up(x))`.
#[derive(Clone, Debug)]
pub(super) struct Mlp {
    /// Name of the gate, where there is one.
    pub(super) gate: Option<&'static str>,
    /// Name of the projection to `inner`.
    pub(super) up: &'static str,
    /// Name of the projection back.
    pub(super) down: &'static str,
    /// Whether projections have biases.
    pub(super) bias: bool,
    /// Width inside.
    pub(super) inner: Size,
    /// Applied inside.
    pub(super) activation: Activation,
}

/// Shapes of multi-head attention: `heads` query heads of `dim`, in as many groups as there are key/value heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Of queries.
    pub(super) heads: usize,
    /// Of keys and values.
    pub(super) groups: usize,
    /// Of each.
    pub(super) dim: usize,
}

impl Heads {
    /// Width of all queries.
    pub(super) fn queries(&self) -> Size {
        Size::new(self.heads * self.dim, "query heads times head size")
    }

    /// Width of all keys, and of all values.
    pub(super) fn keys(&self) -> Size {
        Size::new(self.groups * self.dim, "key/value heads times head size")
    }

    /// What scores are multiplied by, unless a family says otherwise.
    pub(super) fn scale(&self) -> f64 {
        (self.dim as f64).powf(-0.5)
    }
}

/// A projection of the input of attention: a name, and whether it has a bias.
pub(super) type Projection = (&'static str, bool);

impl Block<'_, '_> {
    /// `x` times the weight `name.weight`, plus `name.bias` if there is to be one.
    pub(super) fn linear(
        &mut self,
        name: &str,
        x: Value,
        out: &Size,
        bias: bool,
    ) -> Result<Value, ModelError> {
        let width = self.width(x);
        let w = self.weight(&format!("{name}.weight"), &[out, &width])?;
        let y = self.op(Linear, &[x, w])?;
        if !bias {
            return Ok(y);
        }
        let b = self.weight(&format!("{name}.bias"), &[out])?;
        self.sum(y, b)
    }

    /// `x` normalised over its last axis, with the gain `name.weight` (and bias `name.bias`).
    pub(super) fn norm(&mut self, name: &str, x: Value, norm: Norm) -> Result<Value, ModelError> {
        let width = self.width(x);
        let y = match norm {
            Norm::Rms { eps } => self.op(RmsNorm { eps: eps.into() }, &[x])?,
            Norm::Layer { eps } => self.op(LayerNorm { eps: eps.into() }, &[x])?,
        };
        let gain = self.weight(&format!("{name}.weight"), &[&width])?;
        let y = self.product(y, gain)?;
        match norm {
            Norm::Rms { .. } => Ok(y),
            Norm::Layer { .. } => {
                let bias = self.weight(&format!("{name}.bias"), &[&width])?;
                self.sum(y, bias)
            }
        }
    }

    /// Rows of the table `name.weight` by index.
    pub(super) fn embedding(
        &mut self,
        name: &str,
        rows: &Size,
        width: &Size,
        ids: Value,
    ) -> Result<Value, ModelError> {
        let table = self.weight(&format!("{name}.weight"), &[rows, width])?;
        self.op(Gather, &[table, ids])
    }

    /// `x` through the nonlinearity.
    pub(super) fn activate(&mut self, by: &Activation, x: Value) -> Result<Value, ModelError> {
        self.op(by.0.clone(), &[x])
    }

    /// `x` through the feed-forward layer.
    pub(super) fn mlp(&mut self, x: Value, mlp: &Mlp) -> Result<Value, ModelError> {
        let width = self.width(x);
        let inner = match mlp.gate {
            None => {
                let up = self.linear(mlp.up, x, &mlp.inner, mlp.bias)?;
                self.activate(&mlp.activation, up)?
            }
            Some(gate) => {
                let gate = self.linear(gate, x, &mlp.inner, mlp.bias)?;
                let gate = self.activate(&mlp.activation, gate)?;
                let up = self.linear(mlp.up, x, &mlp.inner, mlp.bias)?;
                self.product(gate, up)?
            }
        };
        self.linear(mlp.down, inner, &width, mlp.bias)
    }

    /// Queries, keys and values of `x`: `[T, H, D]`, `[T, G, D]`, `[T, G, D]`.
    pub(super) fn project(
        &mut self,
        x: Value,
        [q, k, v]: [Projection; 3],
        heads: &Heads,
    ) -> Result<[Value; 3], ModelError> {
        let (queries, keys) = (heads.queries(), heads.keys());
        let q = self.linear(q.0, x, &queries, q.1)?;
        let k = self.linear(k.0, x, &keys, k.1)?;
        let v = self.linear(v.0, x, &keys, v.1)?;
        Ok([
            self.split(q, heads.heads, heads.dim)?,
            self.split(k, heads.groups, heads.dim)?,
            self.split(v, heads.groups, heads.dim)?,
        ])
    }

    /// `[T, heads * dim]` as `[T, heads, dim]`.
    pub(super) fn split(
        &mut self,
        x: Value,
        heads: usize,
        dim: usize,
    ) -> Result<Value, ModelError> {
        let shape = vec![self.ty(x).rows(), heads.into(), dim.into()];
        self.op(Reshape { shape }, &[x])
    }

    /// Cosines and sines, each `f32[T, 1, R]`, of the angles that the fed positions turn by.
    pub(super) fn angles(
        &mut self,
        name: &str,
        by: &Frequencies,
    ) -> Result<[Value; 2], ModelError> {
        let positions = self.feed(feed::POSITIONS);
        let frequencies = self.constant(name, &by.inverse);
        let positions = self.op(Cast { to: DType::F32 }, &[positions])?;
        let shape = vec![self.ty(positions).last(), 1.into(), 1.into()];
        let positions = self.op(Reshape { shape }, &[positions])?;
        let angles = self.product(positions, frequencies)?;
        let mut waves = [self.op(Cos, &[angles])?, self.op(Sin, &[angles])?];
        if by.scale != 1.0 {
            let scale = self.scalar(by.scale);
            for wave in &mut waves {
                *wave = self.product(*wave, scale)?;
            }
        }
        Ok(waves)
    }

    /// Queries or keys turned by their positions.
    pub(super) fn rotate(&mut self, x: Value, angles: [Value; 2]) -> Result<Value, ModelError> {
        self.op(Rope, &[x, angles[0], angles[1]])
    }

    /// Keys or values `[T, G, D]` written into this layer's cache `name`: the whole cache, `[R, G, D]`.
    pub(super) fn cached(&mut self, name: &str, x: Value) -> Result<Value, ModelError> {
        let row: Vec<usize> = self.ty(x).shape[1..]
            .iter()
            .filter_map(ir::Dim::size)
            .collect();
        let cache = self.state(name, &row);
        let rows = self.feed(feed::ROWS);
        let cache = self.op(Scatter, &[cache, rows, x])?;
        self.update(name, cache);
        Ok(cache)
    }

    /// What queries `[T, H, D]` find among keys and values, `[T, H * D]`: each token looks at the interval of rows
    /// it is fed, or at the last `window` of them.
    pub(super) fn attend(
        &mut self,
        [q, k, v]: [Value; 3],
        scale: f64,
        window: Option<usize>,
    ) -> Result<Value, ModelError> {
        let (mut lo, hi) = (self.feed(feed::LO), self.feed(feed::HI));
        if let Some(window) = window {
            let value = Float::from(window as f64);
            let dtype = DType::I32;
            let window = self.op(Const { value, dtype }, &[])?;
            let first = self.op(Sub, &[hi, window])?;
            lo = self.op(Max, &[lo, first])?;
        }
        let attention = Attention {
            scale: scale.into(),
            softcap: 0.0.into(),
        };
        let found = self.op(attention, &[q, k, v, lo, hi])?;
        let shape = &self.ty(found).shape;
        let shape = vec![shape[0].clone(), shape[1].clone() * shape[2].clone()];
        self.op(Reshape { shape }, &[found])
    }
}
