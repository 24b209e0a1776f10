//! The blocks that models are made of: projections, norms, feed-forward layers. Knows no family: what differs between
//! families is an argument.

use super::{
    ModelError,
    draft::{Block, Size},
};
use crate::checkpoint::{CheckpointError, Config};
use ir::{
    Op, Value,
    ops::{
        Gather, Gelu, GeluTanh, LayerNorm, Linear, Mul, Relu, RmsNorm, Sigmoid, Silu, Slice,
        Transpose,
    },
};
use std::ops::Range;

/// A nonlinearity between two projections.
#[derive(Clone, Debug)]
pub(super) enum Activation {
    /// An op of its own.
    Op(Op),
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

impl Activation {
    /// The one that the config names at `key`.
    ///
    /// # Errors
    /// No activation goes by that name.
    pub(super) fn read(config: &Config, key: &str, default: &str) -> Result<Self, CheckpointError> {
        Ok(match config.str_or(key, default)? {
            "gelu" => Gelu.into(),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => GeluTanh.into(),
            "quick_gelu" => Activation::QuickGelu,
            "relu" => Relu.into(),
            "silu" | "swish" => Silu.into(),
            _ => {
                let known = "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, relu, silu \
                             or swish";
                return Err(config.invalid(key, known));
            }
        })
    }
}

impl<T: Into<Op>> From<T> for Activation {
    fn from(op: T) -> Self {
        Activation::Op(op.into())
    }
}

/// A normalisation of rows, with what it has learned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    kind: NormKind,
    /// Added to the mean square or variance.
    eps: f64,
    /// See [`Gain`].
    pub(super) gain: Gain,
    /// Whether there is a bias `name.bias`.
    pub(super) bias: bool,
}

#[derive(Clone, Copy, Debug)]
enum NormKind {
    Rms,
    Layer,
}

/// What normalised rows are multiplied by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gain {
    /// Nothing.
    None,
    /// The weight `name.weight`.
    Weight,
    /// One more than that weight.
    OnePlusWeight,
}

impl Norm {
    /// By the root mean square, with a gain.
    pub(super) fn rms(eps: f64) -> Norm {
        Norm {
            kind: NormKind::Rms,
            eps,
            gain: Gain::Weight,
            bias: false,
        }
    }

    /// By mean and variance, with a gain and a bias.
    pub(super) fn layer(eps: f64) -> Norm {
        Norm {
            kind: NormKind::Layer,
            eps,
            gain: Gain::Weight,
            bias: true,
        }
    }

    /// The same without a bias.
    pub(super) fn unbiased(self) -> Norm {
        Norm {
            bias: false,
            ..self
        }
    }
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
    /// See [`Gate`].
    pub(super) gate: Gate,
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

impl Mlp {
    /// Without a gate, with biases: projections of these names, there and back.
    pub(super) fn plain(
        [up, down]: [&'static str; 2],
        inner: Size,
        activation: impl Into<Activation>,
    ) -> Mlp {
        Mlp {
            gate: Gate::None,
            up,
            down,
            bias: true,
            inner,
            activation: activation.into(),
        }
    }
}

/// Where the gate of a feed-forward layer is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gate {
    /// There is none.
    None,
    /// A projection of this name.
    Apart(&'static str),
    /// The first half of the projection `up`, whose second half then is what is gated.
    Joined,
}

impl Block<'_, '_> {
    /// The weight `name.weight` of a projection, `[out, width]` however the checkpoint stores it.
    pub(super) fn projection(
        &mut self,
        name: &str,
        out: &Size,
        width: &Size,
    ) -> Result<Value, ModelError> {
        let name = format!("{name}.weight");
        if !self.transposed() {
            return self.weight(&name, &[out, width]);
        }
        let stored = self.weight(&name, &[width, out])?;
        let perm = vec![1.into(), 0.into()];
        self.op(Transpose { perm }, &[stored])
    }

    /// `x` times the weight `w`, plus the bias.
    pub(super) fn affine(
        &mut self,
        x: Value,
        w: Value,
        bias: Option<Value>,
    ) -> Result<Value, ModelError> {
        let y = self.op(Linear, &[x, w])?;
        bias.map_or(Ok(y), |b| self.sum(y, b))
    }

    /// `x` times the weight `name.weight`, plus `name.bias` if there is to be one.
    pub(super) fn linear(
        &mut self,
        name: &str,
        x: Value,
        out: &Size,
        bias: bool,
    ) -> Result<Value, ModelError> {
        let width = self.width(x);
        let w = self.projection(name, out, &width)?;
        let bias = bias.then(|| self.weight(&format!("{name}.bias"), &[out]));
        let bias = bias.transpose()?;
        self.affine(x, w, bias)
    }

    /// Rows of a weight.
    pub(super) fn rows(&mut self, w: Value, rows: Range<usize>) -> Result<Value, ModelError> {
        let (start, end) = (rows.start as i64, rows.end as i64);
        let axis = 0;
        self.op(Slice { axis, start, end }, &[w])
    }

    /// `x` normalised over its last axis, with the gain `name.weight` and the bias `name.bias`.
    pub(super) fn norm(&mut self, name: &str, x: Value, norm: Norm) -> Result<Value, ModelError> {
        let width = self.width(x);
        let y = self.normalized(x, norm)?;
        let gain = |b: &mut Self| b.weight(&format!("{name}.weight"), &[&width]);
        let y = match norm.gain {
            Gain::None => y,
            Gain::Weight => {
                let gain = gain(self)?;
                self.product(y, gain)?
            }
            Gain::OnePlusWeight => {
                let (gain, one) = (gain(self)?, self.scalar(1.0));
                let gain = self.sum(gain, one)?;
                self.product(y, gain)?
            }
        };
        if !norm.bias {
            return Ok(y);
        }
        let bias = self.weight(&format!("{name}.bias"), &[&width])?;
        self.sum(y, bias)
    }

    /// `x` normalised over its last axis, without what was learned.
    pub(super) fn normalized(&mut self, x: Value, norm: Norm) -> Result<Value, ModelError> {
        let eps = norm.eps.into();
        match norm.kind {
            NormKind::Rms => self.op(RmsNorm { eps }, &[x]),
            NormKind::Layer => self.op(LayerNorm { eps }, &[x]),
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
        match by {
            Activation::Op(op) => self.op(op.clone(), &[x]),
            Activation::QuickGelu => {
                let steepness = self.scalar(1.702);
                let gate = self.product(x, steepness)?;
                let gate = self.op(Sigmoid, &[gate])?;
                self.op(Mul, &[x, gate])
            }
        }
    }

    /// `x` times the number, where that changes it.
    pub(super) fn scaled(&mut self, x: Value, by: f64) -> Result<Value, ModelError> {
        if by == 1.0 {
            return Ok(x);
        }
        let by = self.scalar(by);
        self.product(x, by)
    }

    /// `x` through the feed-forward layer.
    pub(super) fn mlp(&mut self, x: Value, mlp: &Mlp) -> Result<Value, ModelError> {
        let width = self.width(x);
        let inner = match mlp.gate {
            Gate::None => {
                let up = self.linear(mlp.up, x, &mlp.inner, mlp.bias)?;
                self.activate(&mlp.activation, up)?
            }
            Gate::Apart(gate) => {
                let gate = self.linear(gate, x, &mlp.inner, mlp.bias)?;
                let gate = self.activate(&mlp.activation, gate)?;
                let up = self.linear(mlp.up, x, &mlp.inner, mlp.bias)?;
                self.product(gate, up)?
            }
            Gate::Joined => {
                let n = mlp.inner.n;
                let both = Size::new(2 * n, format!("twice {}", mlp.inner.reason()));
                let w = self.projection(mlp.up, &both, &width)?;
                let bias = mlp
                    .bias
                    .then(|| self.weight(&format!("{}.bias", mlp.up), &[&both]));
                let bias = bias.transpose()?;
                let half = |b: &mut Self, rows: Range<usize>| {
                    let w = b.rows(w, rows.clone())?;
                    let bias = bias.map(|bias| b.rows(bias, rows)).transpose()?;
                    b.affine(x, w, bias)
                };
                let gate = half(self, 0..n)?;
                let gate = self.activate(&mlp.activation, gate)?;
                let up = half(self, n..2 * n)?;
                self.product(gate, up)?
            }
        };
        self.linear(mlp.down, inner, &width, mlp.bias)
    }
}
