//! Rounding with second-moment error feedback: GPTQ (Frantar, Ashkboos, Hoefler & Alistarh 2023, arXiv 2210.17323), with
//! its activation order and static groups. Columns are rounded one after another, those of large inputs first, and what
//! each lost is taken over by the columns that are still to come.

use super::{CompressError, Encoded, Form, Grouped, Matrix, Method, Problem, clip, nearest};
use faer::{Accum, Mat, Par, linalg::matmul::matmul};
use ir::DType;
use rayon::prelude::*;

/// See the module's text.
pub struct Gptq;

/// Of the mean of the second moments' diagonal, added to it: the paper's damping.
const DAMPING: f64 = 0.01;
/// Columns that are rounded before the rest is updated at once.
const BLOCK: usize = 128;

impl Method for Gptq {
    fn name(&self) -> &'static str {
        "gptq"
    }

    fn forms(&self, [_, k]: [usize; 2], _: DType) -> Vec<Form> {
        nearest::grouped(k).collect()
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        Ok(Encoded::Grouped(grouped(problem, form)?))
    }

    fn together(&self) -> bool {
        true
    }
}

/// The problem's weight in codes, with clipped scales.
///
/// # Errors
/// A form that is no codes; as [`Feedback::of`].
pub(super) fn grouped(problem: &Problem, form: &Form) -> Result<Grouped, CompressError> {
    let clipped = clip::grouped("gptq", problem, form)?;
    Ok(match problem.moments.feedback()? {
        Some(feedback) => feedback.round(problem.weight, clipped),
        None => clipped,
    })
}

/// How an error in one input's weight is best made up for by the others': depends on the inputs alone.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// Inputs in the order in which their weights are rounded.
    order: Vec<usize>,
    /// `[K, K]`, upper triangular, in that order: `U^T U` is the inverse of the damped second moments.
    factor: Matrix,
}

impl Feedback {
    /// From second moments `[K, K]`. Inputs that were always zero get moments as large as others have: their weights are
    /// rounded to nearest, and others do not depend on them.
    ///
    /// # Errors
    /// Moments that have no Cholesky factor even when damped: they are not those of any inputs.
    pub fn of(second: &Matrix) -> Result<Feedback, CompressError> {
        let k = second.rows;
        let mut diagonal: Vec<f64> = second.diagonal().map(f64::from).collect();
        let dead: Vec<bool> = diagonal.iter().map(|d| *d <= 0.0).collect();
        let live: Vec<f64> = diagonal.iter().copied().filter(|d| *d > 0.0).collect();
        let mean = match live.is_empty() {
            true => 1.0,
            false => live.iter().sum::<f64>() / live.len() as f64,
        };
        for (d, dead) in diagonal.iter_mut().zip(&dead) {
            if *dead {
                *d = mean;
            }
        }
        let damping = DAMPING * mean;
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]).then(a.cmp(b)));
        // In reversed order, H = L L^T gives U = L^-1 in this order: one factorisation where the paper inverts and
        // factors again.
        let reversed: Vec<usize> = order.iter().rev().copied().collect();
        let at = |i: usize, j: usize| {
            let (i, j) = (reversed[i], reversed[j]);
            match i == j {
                true => diagonal[i] + damping,
                false if dead[i] || dead[j] => 0.0,
                false => f64::from(second.data[i * k + j]),
            }
        };
        let damped = Mat::from_fn(k, k, at);
        let lower = damped
            .llt(faer::Side::Lower)
            .map_err(|_| CompressError::Indefinite)?;
        let mut inverse = Mat::<f64>::zeros(k, k);
        faer::linalg::triangular_inverse::invert_lower_triangular(
            inverse.as_mut(),
            lower.L(),
            Par::rayon(0),
        );
        let factor = Matrix::from_fn(k, k, |i, j| match i <= j {
            true => inverse[(k - 1 - i, k - 1 - j)] as f32,
            false => 0.0,
        });
        Ok(Feedback { order, factor })
    }

    /// Chooses the codes anew, for the scales that are there.
    pub fn round(&self, weight: &Matrix, mut said: Grouped) -> Grouped {
        let (group, [n, k]) = (said.group, said.shape);
        let mut w = Matrix::zeros(n, k);
        w.data
            .par_chunks_mut(k.max(1))
            .enumerate()
            .for_each(|(i, row)| {
                let from = weight.row(i);
                for (to, column) in row.iter_mut().zip(&self.order) {
                    *to = from[*column];
                }
            });
        let mut codes = vec![0i16; n * k];
        for start in (0..k).step_by(BLOCK) {
            let end = (start + BLOCK).min(k);
            let mut errors = Matrix::zeros(n, end - start);
            let rows = w.data.par_chunks_mut(k).zip(codes.par_chunks_mut(k));
            let rows = rows
                .zip(errors.data.par_chunks_mut(end - start))
                .enumerate();
            rows.for_each(|(row, ((w, codes), errors))| {
                for i in start..end {
                    let column = self.order[i];
                    let grid = said.grid(row * (k / group) + column / group);
                    let code = grid.code(w[i]);
                    codes[column] = code as i16;
                    let feedback = &self.factor.row(i)[i..end];
                    let error = (w[i] - grid.value(code)) / feedback[0];
                    errors[i - start] = error;
                    for (w, u) in w[i..end].iter_mut().zip(feedback) {
                        *w -= error * u;
                    }
                }
            });
            if end < k {
                matmul(
                    w.view_mut().subcols_mut(end, k - end),
                    Accum::Add,
                    errors.view(),
                    self.factor
                        .view()
                        .submatrix(start, end, end - start, k - end),
                    -1.0f32,
                    Par::rayon(0),
                );
            }
        }
        said.codes = codes;
        said
    }
}
