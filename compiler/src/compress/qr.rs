//! Low rank from a rank-revealing QR decomposition of a sketch: some random combinations of the outputs' second moments,
//! `W H W^T Omega`, whose columns are ordered by pivoting (Duersch & Gu 2017, arXiv 1509.06820; one power iteration of
//! Halko, Martinsson & Tropp 2011). Costs no decomposition of anything as large as the weight: for large weights the
//! cheap alternative to [`Svd`](super::low_rank::Svd), nearly as good where the spectrum falls.

use super::{
    Alternative, CompressError, Encoded, Form, Matrix, Method, Problem, Sample,
    low_rank::{self, Basis},
    sample::random,
};
use faer::Mat;
use ir::DType;

/// See the module's text.
pub struct Qr;

/// Largest rank that is offered.
const MOST: usize = 512;
/// Columns of the sketch beyond the rank.
const BEYOND: usize = 32;

/// A sign for each place.
fn sign(i: usize, j: usize) -> f32 {
    if random((i as u64) << 32 | j as u64) & 1 == 0 {
        1.0
    } else {
        -1.0
    }
}

/// The leading directions of the outputs of `weight`, which stands in the problem's place, as far as rank `most`.
///
/// # Errors
/// Moments of inputs alone.
pub(super) fn basis(
    problem: &Problem,
    weight: &Matrix,
    most: usize,
) -> Result<Basis, CompressError> {
    let [n, k] = [weight.rows, weight.columns];
    let roots = low_rank::roots(problem);
    let scaled = Matrix::from_fn(n, k, |i, j| roots[i] as f32 * weight.row(i)[j]);
    let width = (most + BEYOND).min(n);
    let random = Matrix::from_fn(n, width, sign);
    let second = problem.moments.second()?;
    let sketch = scaled.times(&second.times(&scaled.transposed().times(&random)));
    let wide = Mat::from_fn(n, width, |i, j| f64::from(sketch.row(i)[j]));
    let columns = wide.col_piv_qr().compute_thin_Q();
    Ok(Basis::new(roots, columns))
}

impl Method for Qr {
    fn name(&self) -> &'static str {
        "qr"
    }

    fn forms(&self, shape: [usize; 2], _: DType) -> Vec<Form> {
        low_rank::forms(shape, MOST)
    }

    fn alternatives(&self, sample: &Sample) -> Result<Vec<Alternative>, CompressError> {
        let basis = |problem: &Problem, most| basis(problem, problem.weight, most);
        low_rank::alternatives(self, sample, basis)
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        // As wide a sketch as errors were told from, or wider.
        let basis = basis(problem, problem.weight, MOST)?;
        low_rank::encode(self.name(), problem, &basis, form)
    }
}
