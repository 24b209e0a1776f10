//! Frequencies of rotary position embedding and how configs scale them. Knows numbers; not graphs.

use super::ModelError;
use crate::checkpoint::{CheckpointError, Config, Rope};
use std::f64::consts::TAU;

/// Most numbers that a table of frequencies may have.
const MAX_TABLE: usize = 1 << 24;

/// Angles a position turns each pair of a head's dimensions by, and what cosines and sines are multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frequencies {
    /// Radians per position, one a pair: the first row for tokens of sequences of at most `first` tokens, the next for
    /// one more, and so on, the last for all that are longer.
    pub(super) rows: Vec<Vec<f64>>,
    /// See `rows`.
    pub(super) first: usize,
    /// Attention scaling: 1 unless a scaling method says otherwise.
    pub(super) scale: f64,
    /// Tokens that the model is made for, if the scaling method says so.
    context: usize,
}

/// The numbers of a scaling method.
struct Scaling<'a> {
    config: &'a Config,
    rope: &'a Rope,
    /// Dimensions that are rotated.
    dim: usize,
    /// `max_position_embeddings`.
    context: usize,
}

impl Frequencies {
    /// The frequencies for heads of `dim`, in layers of `layer_type`. Base and rotated fraction are these where the
    /// config gives none.
    ///
    /// # Errors
    /// The scaling method is not covered, or its numbers make no sense.
    pub(super) fn read(
        config: &Config,
        layer_type: &str,
        (theta, partial): (f64, f64),
        dim: usize,
    ) -> Result<Frequencies, ModelError> {
        let rope = config.rope(layer_type, theta)?;
        let partial = Some(rope.partial.unwrap_or(partial));
        Frequencies::of(config, &Rope { partial, ..rope }, dim)
    }

    /// The frequencies that `rope` describes.
    ///
    /// # Errors
    /// As [`Frequencies::read`].
    pub(super) fn of(config: &Config, rope: &Rope, dim: usize) -> Result<Frequencies, ModelError> {
        // As the reference implementation: truncation to an integer, then every other dimension.
        let rotated = (dim as f64 * rope.partial.unwrap_or(1.0)) as usize;
        if rotated == 0 || !rotated.is_multiple_of(2) {
            let expected =
                format!("an even number of dimensions to rotate, not {rotated} of {dim}");
            return Err(config.invalid("head_dim", expected).into());
        }
        let scaling = Scaling {
            config,
            rope,
            dim: rotated,
            context: config.usize_or("max_position_embeddings", 2048)?,
        };
        match rope.kind.as_str() {
            "default" => Ok(scaling.fixed(scaling.plain(rope.theta), 1.0, 0.0)),
            "linear" => scaling.linear(),
            "dynamic" => scaling.dynamic(),
            "llama3" => scaling.llama3(),
            "yarn" => scaling.yarn(),
            "longrope" => scaling.longrope(),
            _ => {
                let key = ["rope_type", "type"]
                    .into_iter()
                    .find(|key| rope.scaling.has(key))
                    .unwrap_or("rope_type");
                let known = "default, linear, dynamic, llama3, yarn or longrope";
                Err(rope.scaling.invalid(key, known).into())
            }
        }
    }

    /// Longest sequence of a model whose config says `context`.
    pub(super) fn context(&self, context: usize) -> usize {
        context.max(self.context)
    }
}

impl Scaling<'_> {
    /// The same frequencies however long a sequence is; `longest` is what the method extends the context to.
    fn fixed(&self, row: Vec<f64>, scale: f64, longest: f64) -> Frequencies {
        Frequencies {
            rows: vec![row],
            first: 0,
            scale,
            context: longest as usize,
        }
    }

    /// Without scaling.
    fn plain(&self, theta: f64) -> Vec<f64> {
        let exponents = (0..self.dim / 2).map(|i| 2.0 * i as f64 / self.dim as f64);
        exponents.map(|e| theta.powf(-e)).collect()
    }

    fn positive(&self, key: &str) -> Result<f64, CheckpointError> {
        match self.opt_positive(key)? {
            Some(x) => Ok(x),
            None => self.rope.scaling.f64(key),
        }
    }

    fn opt_positive(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        match self.rope.scaling.opt_f64(key)? {
            Some(x) if !(x > 0.0 && x.is_finite()) => {
                Err(self.rope.scaling.invalid(key, "a positive number"))
            }
            x => Ok(x),
        }
    }

    /// Tokens that the model was trained for at first: beside the method's numbers, among them, or all there are.
    fn original(&self) -> Result<usize, CheckpointError> {
        const KEY: &str = "original_max_position_embeddings";
        for config in [self.config, &self.rope.scaling] {
            match config.opt_usize(KEY)? {
                Some(0) => return Err(config.invalid(KEY, "a positive number")),
                Some(n) => return Ok(n),
                None => {}
            }
        }
        Ok(self.context)
    }

    /// Positions divided by the factor.
    fn linear(&self) -> Result<Frequencies, ModelError> {
        let factor = self.positive("factor")?;
        let row = self.plain(self.rope.theta).into_iter().map(|f| f / factor);
        Ok(self.fixed(row.collect(), 1.0, self.context as f64 * factor))
    }

    /// A base that grows with the sequence, beyond what the model was trained for.
    fn dynamic(&self) -> Result<Frequencies, ModelError> {
        let (factor, dim) = (self.positive("factor")?, self.dim as f64);
        let longest = self.context as f64 * factor;
        if longest * dim > MAX_TABLE as f64 || self.dim < 4 {
            let expected = format!(
                "a factor for which {} positions of {} dimensions make at most {MAX_TABLE} numbers",
                self.context, self.dim
            );
            return Err(self.rope.scaling.invalid("factor", expected).into());
        }
        let longest = (longest as usize).max(self.context);
        let base = |length: usize| {
            let stretched = factor * length as f64 / self.context as f64 - (factor - 1.0);
            self.rope.theta * stretched.powf(dim / (dim - 2.0))
        };
        Ok(Frequencies {
            rows: (self.context..=longest)
                .map(|n| self.plain(base(n)))
                .collect(),
            first: self.context,
            scale: 1.0,
            context: longest,
        })
    }

    /// Waves longer than the old context are stretched, much shorter ones kept, and others blended.
    fn llama3(&self) -> Result<Frequencies, ModelError> {
        let factor = self.positive("factor")?;
        let low = self.positive("low_freq_factor")?;
        let high = self.positive("high_freq_factor")?;
        if high <= low {
            let expected = format!("a number above low_freq_factor, which is {low}");
            return Err(self
                .rope
                .scaling
                .invalid("high_freq_factor", expected)
                .into());
        }
        let context = self.original()? as f64;
        let stretched = |f: f64| {
            let waves = context * f / TAU;
            let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * f / factor + kept * f
        };
        let row = self.plain(self.rope.theta).into_iter().map(stretched);
        Ok(self.fixed(row.collect(), 1.0, 0.0))
    }

    /// Slow dimensions stretched, fast ones kept, a ramp between (arXiv 2309.00071).
    fn yarn(&self) -> Result<Frequencies, ModelError> {
        let original = self.original()? as f64;
        let factor = self.opt_positive("factor")?;
        let factor = factor.unwrap_or(self.context as f64 / original);
        let fast = self.opt_positive("beta_fast")?.unwrap_or(32.0);
        let slow = self.opt_positive("beta_slow")?.unwrap_or(1.0);
        let magnitude = |scale: f64| match factor {
            f if f <= 1.0 => 1.0,
            f => 0.1 * scale * f.ln() + 1.0,
        };
        let both = (
            self.opt_positive("mscale")?,
            self.opt_positive("mscale_all_dim")?,
        );
        let scale = match (self.opt_positive("attention_factor")?, both) {
            (Some(given), _) => given,
            (None, (Some(some), Some(all))) => magnitude(some) / magnitude(all),
            _ => magnitude(1.0),
        };
        let dim = self.dim as f64;
        // The dimension that turns so often over the original context.
        let turning =
            |turns: f64| dim * (original / (turns * TAU)).ln() / (2.0 * self.rope.theta.ln());
        let (mut low, mut high) = (turning(fast), turning(slow));
        if self.rope.scaling.bool_or("truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let stretched = |(i, f): (usize, f64)| {
            let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / factor * stretched + f * (1.0 - stretched)
        };
        let row = self.plain(self.rope.theta).into_iter().enumerate();
        Ok(self.fixed(row.map(stretched).collect(), scale, original * factor))
    }

    /// A factor for each pair of dimensions, other ones in sequences longer than the model was trained for
    /// (arXiv 2402.13753).
    fn longrope(&self) -> Result<Frequencies, ModelError> {
        let original = self.original()?;
        let factor = self.opt_positive("factor")?;
        let factor = factor.unwrap_or(self.context as f64 / original as f64);
        let scale = match self.opt_positive("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        };
        let divided = |key: &str| {
            let section = &self.rope.scaling;
            let factors = section.opt_f64s(key)?.unwrap_or_default();
            if factors.len() != self.dim / 2 || factors.iter().any(|f| !(*f > 0.0 && f.is_finite()))
            {
                let expected = format!("a list of {} positive numbers", self.dim / 2);
                return Err(section.invalid(key, expected));
            }
            let plain = self.plain(self.rope.theta).into_iter();
            Ok(plain.zip(factors).map(|(f, by)| f / by).collect())
        };
        Ok(Frequencies {
            rows: vec![divided("short_factor")?, divided("long_factor")?],
            first: original,
            scale,
            context: 0,
        })
    }
}
