//! Low rank from a rank-revealing QR decomposition of a sketch: some random combinations of the outputs' second moments,
//! `W H W^T Omega`, whose columns are ordered by pivoting (Duersch & Gu 2017, arXiv 1509.06820; one power iteration of
//! Halko, Martinsson & Tropp 2011). Costs no decomposition of anything as large as the weight: for large weights the
//! cheap alternative to [`Svd`](super::low_rank::Svd), nearly as good where the spectrum falls.

use super::{
    Alternative, CompressError, Encoded, Form, Matrix, Method, Problem,
    low_rank::{self, Basis, ranks},
};
use faer::Mat;

/// See the module's text.
pub struct Qr;

/// Largest rank that is offered.
const MOST: usize = 512;
/// Columns of the sketch beyond the rank.
const BEYOND: usize = 16;

/// A sign for each place, the same every time (SplitMix64).
fn sign(i: usize, j: usize) -> f32 {
    let mut z = (i as u64) << 32 | j as u64;
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    if (z ^ (z >> 31)) & 1 == 0 { 1.0 } else { -1.0 }
}

fn offered(problem: &Problem) -> Vec<usize> {
    let ranks = ranks(problem.shape());
    ranks.into_iter().filter(|r| *r <= MOST).collect()
}

/// The leading directions of the outputs, as far as rank `most`.
fn basis(problem: &Problem, most: usize) -> Basis {
    let [n, k] = problem.shape();
    let roots = low_rank::roots(problem);
    let scaled = Matrix::from_fn(n, k, |i, j| roots[i] as f32 * problem.weight.row(i)[j]);
    let width = (most + BEYOND).min(n);
    let random = Matrix::from_fn(n, width, sign);
    let second = problem.moments.second();
    let sketch = scaled.times(&second.times(&scaled.transposed().times(&random)));
    let wide = Mat::from_fn(n, width, |i, j| f64::from(sketch.row(i)[j]));
    let columns = wide.col_piv_qr().compute_thin_Q();
    Basis::new(roots, columns)
}

impl Method for Qr {
    fn name(&self) -> &'static str {
        "qr"
    }

    fn alternatives(&self, problem: &Problem) -> Result<Vec<Alternative>, CompressError> {
        let ranks = offered(problem);
        let Some(most) = ranks.last() else {
            return Ok(vec![]);
        };
        low_rank::products(self.name(), problem, &basis(problem, *most), &ranks)
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        let most = offered(problem).last().copied().unwrap_or(low_rank::STEP);
        low_rank::encode(self.name(), problem, &basis(problem, most), form)
    }
}
