//! What a method is given: a weight and statistics of its inputs. Knows how far another weight is from it in the outputs
//! that it gives (the layer-wise problem of Optimal Brain Compression, Frantar & Alistarh 2022, arXiv 2208.11580).

use super::{CompressError, Encoded, Matrix, clip::Clipped, gptq::Feedback};
use ir::{DType, ops::walsh_hadamard};
use std::sync::{Arc, OnceLock};

/// Statistics of the inputs `x [K]` of products, over the tokens of a calibration text. Weights that multiply the same
/// inputs share them, and what methods derive from them.
#[derive(Clone, Debug)]
pub struct Moments {
    rows: u64,
    squares: Vec<f32>,
    second: Option<Matrix>,
    mean: Vec<f32>,
    max: Vec<f32>,
    feedback: OnceLock<Result<Feedback, CompressError>>,
    rotated: OnceLock<(usize, Arc<Moments>)>,
}

impl Moments {
    /// Of `rows` tokens: the mean of `x x^T`, `[K, K]`; the mean of `x` and the largest `|x|`, `[K]`.
    pub fn new(rows: u64, second: Matrix, mean: Vec<f32>, max: Vec<f32>) -> Moments {
        Moments {
            rows,
            squares: second.diagonal().collect(),
            second: Some(second),
            mean,
            max,
            feedback: OnceLock::new(),
            rotated: OnceLock::new(),
        }
    }

    /// Of inputs of which only the mean squares are known, `[K]`: as if no two went together.
    pub fn alone(rows: u64, squares: Vec<f32>, mean: Vec<f32>, max: Vec<f32>) -> Moments {
        Moments {
            rows,
            squares,
            second: None,
            mean,
            max,
            feedback: OnceLock::new(),
            rotated: OnceLock::new(),
        }
    }

    /// The same, with nothing known of how inputs go together.
    #[must_use]
    pub fn apart(&self) -> Moments {
        let [squares, mean, max] = [&self.squares, &self.mean, &self.max].map(Clone::clone);
        Moments::alone(self.rows, squares, mean, max)
    }

    /// Tokens seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// `[K]`: mean of `x^2`.
    pub fn squares(&self) -> &[f32] {
        &self.squares
    }

    /// `[K, K]`: mean of `x x^T`.
    ///
    /// # Errors
    /// Only the squares are known.
    pub fn second(&self) -> Result<&Matrix, CompressError> {
        self.second.as_ref().ok_or(CompressError::Alone)
    }

    /// `[K]`: mean of `x`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// `[K]`: largest `|x|`.
    pub fn max(&self) -> &[f32] {
        &self.max
    }

    /// See [`Feedback`]; computed once. `None` of inputs that do not go together: there is nothing to feed back.
    ///
    /// # Errors
    /// As [`Feedback::of`].
    pub fn feedback(&self) -> Result<Option<&Feedback>, CompressError> {
        let Some(second) = &self.second else {
            return Ok(None);
        };
        let feedback = self.feedback.get_or_init(|| Feedback::of(second));
        feedback.as_ref().map(Some).map_err(Clone::clone)
    }

    /// Of these inputs rotated in blocks; see [`ir::ops::Hadamard`]. Computed once for the first block that is asked for.
    pub fn rotated(&self, block: usize) -> Arc<Moments> {
        let rotate = || (block, Arc::new(self.rotate(block)));
        match self.rotated.get_or_init(rotate) {
            (known, rotated) if *known == block => Arc::clone(rotated),
            _ => rotate().1,
        }
    }

    fn rotate(&self, block: usize) -> Moments {
        let scale = (block as f32).sqrt();
        let mut mean = self.mean.clone();
        walsh_hadamard(&mut mean, block, 1.0 / scale);
        let spread = |of: &[f32], by: f32| -> Vec<f32> {
            let blocks = of.chunks(block);
            let sums = blocks.map(|of| of.iter().sum::<f32>() / by);
            sums.flat_map(|sum| std::iter::repeat_n(sum, block))
                .collect()
        };
        // At most: all could be large at once, with the signs of one row of the matrix.
        let max = spread(&self.max, scale);
        match &self.second {
            Some(second) => {
                let rows = second.clone().rotated(block);
                Moments::new(self.rows, rows.transposed().rotated(block), mean, max)
            }
            None => Moments::alone(self.rows, spread(&self.squares, block as f32), mean, max),
        }
    }

    /// Of inputs that are all there, one a row.
    pub fn of(inputs: &Matrix) -> Moments {
        let rows = inputs.rows;
        let turned = inputs.transposed();
        let mut second = turned.times(inputs);
        let count = rows.max(1) as f32;
        for x in &mut second.data {
            *x /= count;
        }
        let columns = turned.data.chunks(rows.max(1));
        let mean = columns.clone().map(|c| c.iter().sum::<f32>() / count);
        let max = columns.map(|c| c.iter().fold(0.0f32, |m, x| m.max(x.abs())));
        Moments::new(rows as u64, second, mean.collect(), max.collect())
    }
}

/// A weight of a product, and what says how much each of its errors matters.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// `[N, K]`.
    pub weight: &'a Matrix,
    /// The element type in which the checkpoint stores it.
    pub stored: DType,
    /// Of its inputs.
    pub moments: &'a Moments,
    /// `[N]`: how much the square of an error of each output matters (the Fisher information: the mean square of the
    /// loss's derivative by it); 1 where not given.
    pub fisher: Option<&'a [f32]>,
    /// Where codes of this weight and these inputs are kept, once they were made.
    pub clipped: Option<&'a Clipped>,
}

/// Multiply-adds up to which an error is computed from all rows of a weight.
const EXACT: usize = 1 << 33;
/// Rows from which it is estimated beyond.
const SAMPLE: usize = 256;

impl<'a> Problem<'a> {
    /// Of outputs that all matter alike.
    pub fn new(weight: &'a Matrix, stored: DType, moments: &'a Moments) -> Problem<'a> {
        Problem {
            weight,
            stored,
            moments,
            fisher: None,
            clipped: None,
        }
    }

    /// N and K.
    pub fn shape(&self) -> [usize; 2] {
        [self.weight.rows, self.weight.columns]
    }

    /// Checks what users can get wrong: sizes, numbers that are none, statistics of nothing.
    ///
    /// # Errors
    /// Says which.
    pub fn check(&self) -> Result<(), CompressError> {
        let [n, k] = self.shape();
        let m = self.moments;
        let [rows, columns] = m.second.as_ref().map_or([k; 2], |s| [s.rows, s.columns]);
        let sizes = [m.squares.len(), rows, columns, m.mean.len(), m.max.len()];
        if sizes.iter().any(|size| *size != k) {
            return Err(CompressError::Sizes {
                what: "moments",
                found: sizes[0],
                wanted: k,
            });
        }
        if let Some(fisher) = self.fisher.filter(|f| f.len() != n) {
            return Err(CompressError::Sizes {
                what: "Fisher weights",
                found: fisher.len(),
                wanted: n,
            });
        }
        if m.rows == 0 {
            return Err(CompressError::NoRows);
        }
        let bad = |xs: &[f32]| xs.iter().any(|x| !x.is_finite());
        let fisher = self.fisher.unwrap_or_default();
        let negative = fisher.iter().any(|f| *f < 0.0);
        let named = [
            ("the weight", bad(&self.weight.data)),
            (
                "the inputs' second moments",
                bad(&m.squares) || m.second.as_ref().is_some_and(|s| bad(&s.data)),
            ),
            ("the inputs' means", bad(&m.mean)),
            ("the inputs' largest values", bad(&m.max)),
            ("the Fisher weights", bad(fisher) || negative),
        ];
        match named.into_iter().find(|(_, bad)| *bad) {
            Some((what, _)) => Err(CompressError::NotFinite { what }),
            None => Ok(()),
        }
    }

    /// What `of` says of the same problem with inputs and weight rotated in blocks: errors in the outputs are the same.
    pub fn rotated<T>(&self, block: usize, of: impl FnOnce(&Problem) -> T) -> T {
        let (weight, moments) = (
            self.weight.clone().rotated(block),
            self.moments.rotated(block),
        );
        of(&Problem {
            weight: &weight,
            moments: &moments,
            clipped: None,
            ..*self
        })
    }

    /// The error of a weight said in some way: [`Problem::error`] of what it decodes to, and what its inputs' rounding adds.
    pub fn error_of(&self, encoded: &Encoded) -> f64 {
        if let Encoded::Rotated { block, weight } = encoded {
            return self.rotated(*block as usize, |rotated| rotated.error_of(weight));
        }
        let decoded = encoded.decode(self.weight);
        let inputs = match encoded {
            Encoded::Dynamic(integers) => self.error_of_inputs(&decoded, integers.group),
            _ => 0.0,
        };
        self.error(&decoded) + inputs
    }

    /// What rounding the inputs to 8 bits adds: uniform errors of a step `max |x| / 127` of the group. The mean square of
    /// the largest of a group is taken to be the norm of the group's mean squares: right for one large input, and within
    /// a seventh for 32 or 64 of one size (normal ones).
    pub(super) fn error_of_inputs(&self, weight: &Matrix, group: usize) -> f64 {
        let squares = &self.moments.squares;
        let steps = squares.chunks(group).map(|group| {
            let norm = group.iter().map(|h| f64::from(*h).powi(2)).sum::<f64>();
            norm.sqrt() / (127.0 * 127.0 * 12.0)
        });
        let steps: Vec<f64> = steps.collect();
        let row = |i: usize| -> f64 {
            let groups = weight.row(i).chunks(group).zip(&steps);
            let each = groups.map(|(w, step)| {
                let squares = w.iter().map(|w| f64::from(*w) * f64::from(*w));
                squares.sum::<f64>() * step
            });
            each.sum::<f64>() * self.fisher.map_or(1.0, |f| f64::from(f[i]))
        };
        (0..weight.rows).map(row).sum()
    }

    /// `tr(D H D^T)` of `D = weight - other`, each output's part weighted by its Fisher weight: the mean square by which
    /// the outputs differ. Exact for weights up to about 2000 x 2000; beyond, the part beside H's diagonal is estimated
    /// from 256 rows, evenly spread.
    pub fn error(&self, other: &Matrix) -> f64 {
        let difference = self.weight.minus(other);
        let [n, k] = self.shape();
        let fisher = |i: usize| self.fisher.map_or(1.0, |f| f64::from(f[i]));
        let own = |i: usize| {
            let squares = difference.row(i).iter().zip(&self.moments.squares);
            let squares = squares.map(|(d, h)| f64::from(*d) * f64::from(*d) * f64::from(*h));
            fisher(i) * squares.sum::<f64>()
        };
        let Some(second) = &self.moments.second else {
            return (0..n).map(own).sum();
        };
        let step = match n.saturating_mul(k).saturating_mul(k) > EXACT {
            true => n.div_ceil(SAMPLE),
            false => 1,
        };
        let sampled: Vec<usize> = (0..n).step_by(step).collect();
        let rows = sampled.iter().flat_map(|i| difference.row(*i)).copied();
        let rows = Matrix::new(sampled.len(), k, rows.collect());
        let spread = rows.times(second);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum()
        };
        let full = |r: usize| dot(rows.row(r), spread.row(r)).max(0.0);
        let exact: f64 = (0..rows.rows).map(|r| fisher(sampled[r]) * full(r)).sum();
        if step == 1 {
            return exact;
        }
        let whole: f64 = (0..n).map(own).sum();
        match sampled.iter().map(|i| own(*i)).sum::<f64>() {
            0.0 => exact * step as f64,
            part => whole * exact / part,
        }
    }
}
