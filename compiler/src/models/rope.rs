//! Frequencies of rotary position embedding and how configs scale them. Knows numbers; not graphs.

use super::ModelError;
use crate::checkpoint::Config;
use std::f64::consts::TAU;

/// Angles a position turns each pair of a head's dimensions by, and what cosines and sines are multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frequencies {
    /// Radians per position, one a pair.
    pub(super) inverse: Vec<f64>,
    /// Attention scaling: 1 unless a scaling method says otherwise.
    pub(super) scale: f64,
}

impl Frequencies {
    /// The frequencies for heads of `dim`, in layers of `layer_type`.
    ///
    /// # Errors
    /// The scaling method is not covered, or its numbers make no sense.
    pub(super) fn read(
        config: &Config,
        layer_type: &str,
        default_theta: f64,
        dim: usize,
    ) -> Result<Frequencies, ModelError> {
        let rope = config.rope(layer_type, default_theta)?;
        // As the reference implementation: truncation to an integer, then every other dimension.
        let rotated = (dim as f64 * rope.partial) as usize;
        if rotated == 0 || !rotated.is_multiple_of(2) {
            let expected =
                format!("an even number of dimensions to rotate, not {rotated} of {dim}");
            return Err(config.invalid("head_dim", expected).into());
        }
        let plain = (0..rotated / 2).map(|i| {
            let exponent = 2.0 * i as f64 / rotated as f64;
            rope.theta.powf(-exponent)
        });
        let scaling = &rope.scaling;
        let positive = |key| {
            let x = scaling.f64(key)?;
            if x > 0.0 && x.is_finite() {
                Ok(x)
            } else {
                Err(scaling.invalid(key, "a positive number"))
            }
        };
        let inverse = match rope.kind.as_str() {
            "default" => plain.collect(),
            "linear" => {
                let factor = positive("factor")?;
                plain.map(|f| f / factor).collect()
            }
            "llama3" => {
                let (factor, low, high) = (
                    positive("factor")?,
                    positive("low_freq_factor")?,
                    positive("high_freq_factor")?,
                );
                if high <= low {
                    let expected = format!("a number above low_freq_factor, which is {low}");
                    return Err(scaling.invalid("high_freq_factor", expected).into());
                }
                let context = positive("original_max_position_embeddings")?;
                // Waves longer than the old context are stretched, much shorter ones kept, and others blended.
                let stretched = |f: f64| {
                    let waves = context * f / TAU;
                    let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * f / factor + kept * f
                };
                plain.map(stretched).collect()
            }
            _ => {
                let key = ["rope_type", "type"]
                    .into_iter()
                    .find(|key| scaling.has(key))
                    .unwrap_or("rope_type");
                return Err(scaling.invalid(key, "default, linear or llama3").into());
            }
        };
        Ok(Frequencies {
            inverse,
            scale: 1.0,
        })
    }
}
