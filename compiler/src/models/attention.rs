//! Attention as models have it: queries, keys and values from one tensor or three, norms and positions of heads, the
//! cache, and which rows a token sees. Knows no family.

use super::{
    ModelError,
    bias::Bias,
    blocks::{Gain, Norm},
    draft::{Block, Size},
    rotation::Rotation,
};
use crate::checkpoint::{CheckpointError, Config};
use ir::{
    DType, Float, Value, feed,
    ops::{self, Concat, Const, Max, Min, Reshape, Rope, Scatter, Slice, Sub},
};

/// See the module's text.
pub(super) struct Attention {
    pub(super) heads: Heads,
    pub(super) projections: Projections,
    /// Whether queries, keys and values have biases.
    pub(super) input_bias: bool,
    /// Name of the projection of what was found.
    pub(super) output: &'static str,
    /// Whether it has a bias.
    pub(super) output_bias: bool,
    /// Norms of queries and of keys, where there are some.
    pub(super) head_norm: Option<HeadNorm>,
    /// Multiplies the scores.
    pub(super) scale: f64,
    /// Bounds the scores, where positive: `softcap * tanh(score / softcap)`.
    pub(super) softcap: f64,
    /// What is added to the scores.
    pub(super) bias: Option<Bias>,
    /// Whether keys and values are kept from step to step.
    pub(super) cached: bool,
}

impl Attention {
    /// With three projections of the usual names, without biases, norms and a cache; `output` is the projection of what
    /// was found.
    pub(super) fn plain(heads: Heads, output: &'static str) -> Attention {
        let names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        Attention {
            heads,
            projections: Projections::Apart(names),
            input_bias: false,
            output,
            output_bias: false,
            head_norm: None,
            scale: heads.scale(),
            softcap: 0.0,
            bias: None,
            cached: false,
        }
    }
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
    /// As many of keys as of queries, `count` in the config, which share the width there evenly.
    ///
    /// # Errors
    /// They do not divide it.
    pub(super) fn multi(
        config: &Config,
        width: &str,
        count: &str,
    ) -> Result<Heads, CheckpointError> {
        let (dim, heads) = (config.quotient(width, count)?, config.usize(count)?);
        let groups = heads;
        Ok(Heads { heads, groups, dim })
    }

    /// Width of all queries.
    fn queries(&self) -> Size {
        Size::new(self.heads * self.dim, "query heads times head size")
    }

    /// Width of all keys, and of all values.
    fn keys(&self) -> Size {
        Size::new(self.groups * self.dim, "key/value heads times head size")
    }

    /// What scores are multiplied by, unless a family says otherwise.
    pub(super) fn scale(&self) -> f64 {
        (self.dim as f64).powf(-0.5)
    }
}

/// Where the weights of queries, keys and values are.
#[derive(Clone, Copy)]
pub(super) enum Projections {
    /// Each in a tensor of its own.
    Apart([&'static str; 3]),
    /// In one tensor: all queries, all keys, all values.
    Joined(&'static str),
    /// In one tensor, group after group: a group's queries, its key, its value.
    Grouped(&'static str),
}

/// Norms of queries and keys.
#[derive(Clone, Copy)]
pub(super) struct HeadNorm {
    /// Of the one for queries and the one for keys.
    pub(super) names: [&'static str; 2],
    pub(super) norm: Norm,
    pub(super) over: Over,
}

/// What a norm of queries or keys is taken over.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Over {
    /// Each head, with one gain for all.
    Head,
    /// Each head, with gains of its own: `name.norms.0.weight` and on.
    OwnHead,
    /// All heads together.
    All,
}

/// Which rows a token sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Span {
    /// All that it is fed.
    All,
    /// The last so many of them.
    Last(usize),
    /// Those at most so many tokens before or after it.
    Around(usize),
}

impl Block<'_, '_> {
    /// What the rows of `x` find among each other.
    pub(super) fn attention(
        &mut self,
        x: Value,
        a: &Attention,
        rotation: Option<Rotation>,
        span: Span,
    ) -> Result<Value, ModelError> {
        let width = self.width(x);
        let [mut q, mut k, mut v] = self.project(x, a)?;
        if let Some(rotation) = rotation {
            q = self.op(Rope, &[q, rotation[0], rotation[1]])?;
            k = self.op(Rope, &[k, rotation[0], rotation[1]])?;
        }
        if let Some(bias) = a.bias {
            [q, k, v] = self.biased([q, k, v], a, bias)?;
        }
        if a.cached {
            (k, v) = (self.cached("k_cache", k)?, self.cached("v_cache", v)?);
        }
        let mut found = self.attend([q, k, v], a, span)?;
        if self.width(found).n != a.heads.dim {
            found = self.slice(found, 2, 0..a.heads.dim)?;
        }
        let rows = self.ty(found).shape[0].clone();
        let shape = vec![rows, a.heads.queries().n.into()];
        let found = self.op(Reshape { shape }, &[found])?;
        self.linear(a.output, found, &width, a.output_bias)
    }

    /// Queries, keys and values of `x`, normalised: `[T, H, D]`, `[T, G, D]`, `[T, G, D]`.
    fn project(&mut self, x: Value, a: &Attention) -> Result<[Value; 3], ModelError> {
        let sizes = [a.heads.queries(), a.heads.keys(), a.heads.keys()];
        let mut made = vec![];
        match a.projections {
            Projections::Apart(names) => {
                for (name, size) in names.into_iter().zip(&sizes) {
                    made.push(self.linear(name, x, size, a.input_bias)?);
                }
            }
            Projections::Joined(name) => {
                let Heads { heads, groups, .. } = a.heads;
                made = self.parts(x, name, a, 1, [heads, groups, groups])?;
            }
            Projections::Grouped(name) => {
                let Heads { heads, groups, .. } = a.heads;
                made = self.parts(x, name, a, groups, [heads / groups, 1, 1])?;
            }
        }
        let counts = [a.heads.heads, a.heads.groups, a.heads.groups];
        for (i, (value, count)) in made.iter_mut().zip(counts).enumerate() {
            let norm = a.head_norm.and_then(|n| Some((n, *n.names.get(i)?)));
            if let Some((n, name)) = norm.filter(|(n, _)| n.over == Over::All) {
                *value = self.norm(name, *value, n.norm)?;
            }
            let shape = vec![self.ty(*value).rows(), count.into(), a.heads.dim.into()];
            *value = self.op(Reshape { shape }, &[*value])?;
            match norm {
                Some((n, name)) if n.over == Over::Head => {
                    *value = self.norm(name, *value, n.norm)?;
                }
                Some((n, name)) if n.over == Over::OwnHead => {
                    *value = self.own_norms(name, *value, count, n.norm)?;
                }
                _ => {}
            }
        }
        Ok(made.try_into().expect("three were made"))
    }

    /// `x` times each of three parts of the weight `name.weight`: of `outer` groups each, that many heads a group.
    fn parts(
        &mut self,
        x: Value,
        name: &str,
        a: &Attention,
        outer: usize,
        counts: [usize; 3],
    ) -> Result<Vec<Value>, ModelError> {
        let (dim, inner) = (a.heads.dim, counts.iter().sum::<usize>());
        let key = "heads of queries, keys and values times head size";
        let (all, width) = (Size::new(outer * inner * dim, key), self.width(x));
        let w = self.projection(name, &all, &width)?;
        let bias = a
            .input_bias
            .then(|| self.weight(&format!("{name}.bias"), &[&all]));
        let bias = bias.transpose()?;
        let mut start = 0;
        let mut made = vec![];
        for count in counts {
            let part = |b: &mut Self, w: Value| -> Result<Value, ModelError> {
                if outer == 1 {
                    return b.rows(w, start * dim..(start + count) * dim);
                }
                let mut shape = b.ty(w).shape.clone();
                let split = [outer.into(), inner.into(), dim.into()];
                let shape_in = split.into_iter().chain(shape[1..].iter().cloned());
                let w = b.op(
                    Reshape {
                        shape: shape_in.collect(),
                    },
                    &[w],
                )?;
                let w = b.slice(w, 1, start..start + count)?;
                shape[0] = (outer * count * dim).into();
                b.op(Reshape { shape }, &[w])
            };
            let w = part(self, w)?;
            let bias = bias.map(|bias| part(self, bias)).transpose()?;
            made.push(self.affine(x, w, bias)?);
            start += count;
        }
        Ok(made)
    }

    /// Heads `x: [T, count, D]` normalised, each with a gain of its own.
    fn own_norms(
        &mut self,
        name: &str,
        x: Value,
        count: usize,
        norm: Norm,
    ) -> Result<Value, ModelError> {
        let width = self.width(x);
        let y = self.normalized(x, norm)?;
        let Gain::Weight = norm.gain else {
            return Ok(y);
        };
        let gains: Vec<Value> = (0..count)
            .map(|i| {
                let gain = self.weight(&format!("{name}.norms.{i}.weight"), &[&width])?;
                let shape = vec![1.into(), width.n.into()];
                self.op(Reshape { shape }, &[gain])
            })
            .collect::<Result<_, ModelError>>()?;
        let gains = self.op(Concat { axis: 0 }, &gains)?;
        self.product(y, gains)
    }

    /// A part of `x` along an axis.
    pub(super) fn slice(
        &mut self,
        x: Value,
        axis: i64,
        range: std::ops::Range<usize>,
    ) -> Result<Value, ModelError> {
        let (start, end) = (range.start as i64, range.end as i64);
        self.op(Slice { axis, start, end }, &[x])
    }

    /// A whole number.
    pub(super) fn integer(&mut self, n: usize) -> Result<Value, ModelError> {
        let (value, dtype) = (Float::from(n as f64), DType::I32);
        self.op(Const { value, dtype }, &[])
    }

    /// Keys or values `[T, G, D]` written into this layer's cache `name`: the whole cache, `[R, G, D]`.
    fn cached(&mut self, name: &str, x: Value) -> Result<Value, ModelError> {
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

    /// What queries `[T, H, D]` find among keys and values, `[T, H, D]`: each token looks at the interval of rows it is
    /// fed, as far as the span goes.
    fn attend(
        &mut self,
        [q, k, v]: [Value; 3],
        a: &Attention,
        span: Span,
    ) -> Result<Value, ModelError> {
        let (mut lo, mut hi) = (self.feed(feed::LO), self.feed(feed::HI));
        match span {
            Span::All => {}
            Span::Last(window) => {
                let window = self.integer(window)?;
                let first = self.op(Sub, &[hi, window])?;
                lo = self.op(Max, &[lo, first])?;
            }
            Span::Around(reach) => {
                let row = self.feed(feed::ROWS);
                let (before, after) = (self.integer(reach)?, self.integer(reach + 1)?);
                let first = self.op(Sub, &[row, before])?;
                lo = self.op(Max, &[lo, first])?;
                let end = self.sum(row, after)?;
                hi = self.op(Min, &[hi, end])?;
            }
        }
        let attention = ops::Attention {
            scale: a.scale.into(),
            softcap: a.softcap.into(),
        };
        self.op(attention, &[q, k, v, lo, hi])
    }
}
