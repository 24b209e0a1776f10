//! Low rank, in the sense of the outputs: with inputs of second moments H, the best product of rank r in place of W is
//! `U_r U_r^T W`, where `U_r` are the leading eigenvectors of `W H W^T`, the outputs' second moments. That is
//! activation-whitened SVD (SVD-LLM, Wang et al. 2024, arXiv 2403.07378: `W S = U Sigma V^T` with `H = S S^T`) without the
//! inverse of `S`, which singular moments do not have. One decomposition gives the error at every rank.
//!
//! Outputs that matter more weigh more: `U` is computed for `F^1/2 W`, with `F` the Fisher weights.

use super::{Alternative, CompressError, Encoded, Form, Matrix, Method, Problem, nearest};
use faer::{Mat, MatRef};
use ir::DType;

/// Factors from a singular value decomposition: the best there are.
pub struct Svd;

/// Ranks are multiples of this: what tiles and groups of integers want.
pub const STEP: usize = 32;
/// Most ranks that are offered of a weight, spread evenly in their logarithm.
const RANKS: usize = 8;

/// Ranks worth offering for a weight `[n, k]`: multiples of [`STEP`] at which two factors are smaller than the whole.
pub fn ranks([n, k]: [usize; 2]) -> Vec<usize> {
    let break_even = (n * k).saturating_sub(1) / (n + k).max(1);
    let all: Vec<usize> = (1..=break_even / STEP).map(|i| i * STEP).collect();
    if all.len() <= RANKS {
        return all;
    }
    let ratio = (all.len() as f64).powf(1.0 / (RANKS - 1) as f64);
    let mut out: Vec<usize> = (0..RANKS)
        .map(|i| STEP * (ratio.powi(i as i32).round() as usize).clamp(i + 1, all.len()))
        .collect();
    out.dedup();
    out
}

/// The error of the best product of each rank, from 0 to the least of the weight's sizes; see [`Problem::error`].
///
/// # Errors
/// Eigenvalues that do not converge, moments that are those of no inputs.
pub fn curve(problem: &Problem) -> Result<Vec<f64>, CompressError> {
    Ok(Basis::of(problem, problem.weight)?.1)
}

/// How factors are said.
fn factors() -> [Form; 2] {
    [Form::Float(DType::BF16), Form::integers(8, 32)]
}

/// Orthonormal columns `[N, R]`, the most important first, in the space of outputs times the roots of their weights.
pub(super) struct Basis {
    columns: Mat<f64>,
    /// `[N]`: roots of the outputs' weights.
    roots: Vec<f64>,
}

/// Roots of the Fisher weights; none so small that dividing by it means nothing.
pub(super) fn roots(problem: &Problem) -> Vec<f64> {
    let n = problem.weight.rows;
    let Some(fisher) = problem.fisher else {
        return vec![1.0; n];
    };
    let fisher = fisher.iter().map(|f| f64::from(*f));
    let mean = fisher.clone().sum::<f64>() / n.max(1) as f64;
    let least = if mean > 0.0 { mean * 1e-6 } else { 1.0 };
    fisher.map(|f| f.max(least).sqrt()).collect()
}

fn wide(m: &Matrix) -> Mat<f64> {
    Mat::from_fn(m.rows, m.columns, |i, j| {
        f64::from(m.data[i * m.columns + j])
    })
}

fn narrow(m: MatRef<'_, f64>) -> Matrix {
    Matrix::from_fn(m.nrows(), m.ncols(), |i, j| m[(i, j)] as f32)
}

impl Basis {
    /// Of orthonormal columns that some other way found, in their order.
    pub(super) fn new(roots: Vec<f64>, columns: Mat<f64>) -> Basis {
        Basis { columns, roots }
    }

    /// Of the outputs of `weight`, which stands in the problem's place, by eigenvalues; and what error is left when the
    /// first so many columns are kept, from none to all.
    ///
    /// # Errors
    /// Eigenvalues that do not converge, moments that are those of no inputs.
    pub(super) fn of(
        problem: &Problem,
        weight: &Matrix,
    ) -> Result<(Basis, Vec<f64>), CompressError> {
        let [n, k] = [weight.rows, weight.columns];
        let roots = roots(problem);
        let scaled = Mat::from_fn(n, k, |i, j| roots[i] * f64::from(weight.data[i * k + j]));
        let second = wide(problem.moments.second());
        if n <= k {
            let gram = &scaled * &second * scaled.transpose();
            let (values, vectors) = eigen(&gram)?;
            return Ok((Basis::new(roots, vectors), tails(&values)));
        }
        // The same from the smaller side: eigenvectors V of S^T W^T W S, U = W S V / sigma.
        let root = root(&second)?;
        let whitened = &scaled * &root;
        let gram = whitened.transpose() * &whitened;
        let (values, vectors) = eigen(&gram)?;
        let mut columns = &whitened * &vectors;
        let floor = values.first().copied().unwrap_or(0.0) * 1e-13;
        for (j, value) in values.iter().enumerate() {
            let by = if *value > floor {
                1.0 / value.sqrt()
            } else {
                0.0
            };
            for i in 0..n {
                columns[(i, j)] *= by;
            }
        }
        Ok((Basis::new(roots, columns), tails(&values)))
    }

    /// Factors of rank `rank` of the projection of `weight`: `[N, rank]` and `[rank, K]`.
    pub(super) fn factors(&self, weight: &Matrix, rank: usize) -> (Matrix, Matrix) {
        let u = self.columns.subcols(0, rank.min(self.columns.ncols()));
        let (n, k) = (weight.rows, weight.columns);
        let scaled = Mat::from_fn(n, k, |i, j| {
            self.roots[i] * f64::from(weight.data[i * k + j])
        });
        let right = u.transpose() * &scaled;
        let left = Matrix::from_fn(n, u.ncols(), |i, j| (u[(i, j)] / self.roots[i]) as f32);
        (left, narrow(right.as_ref()))
    }

    /// The product of rank `rank`, its factors said in the forms.
    ///
    /// # Errors
    /// Forms that rounding does not give.
    pub(super) fn product(
        &self,
        weight: &Matrix,
        rank: usize,
        [left, right]: [&Form; 2],
    ) -> Result<Encoded, CompressError> {
        let (l, r) = self.factors(weight, rank);
        Ok(Encoded::Product(
            Box::new(nearest::encode(&l, left)?),
            Box::new(nearest::encode(&r, right)?),
        ))
    }
}

/// Eigenvalues, the largest first, none negative; and their vectors.
fn eigen(symmetric: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), CompressError> {
    let found = symmetric.self_adjoint_eigen(faer::Side::Lower);
    let found = found.map_err(|_| CompressError::NoConvergence)?;
    let n = symmetric.nrows();
    let values = found.S().column_vector();
    let values = (0..n).rev().map(|i| values[i].max(0.0)).collect();
    let vectors = found.U();
    Ok((values, Mat::from_fn(n, n, |i, j| vectors[(i, n - 1 - j)])))
}

/// `S` of `H = S S^T`, with a trace of damping where H is singular.
///
/// # Errors
/// Moments that are those of no inputs.
fn root(second: &Mat<f64>) -> Result<Mat<f64>, CompressError> {
    let k = second.nrows();
    let mean = (0..k).map(|i| second[(i, i)]).sum::<f64>() / k.max(1) as f64;
    let damping = (mean * 1e-6).max(f64::MIN_POSITIVE);
    let damped = Mat::from_fn(k, k, |i, j| {
        second[(i, j)] + if i == j { damping } else { 0.0 }
    });
    let factor = damped.llt(faer::Side::Lower);
    let factor = factor.map_err(|_| CompressError::Indefinite)?;
    Ok(factor.L().to_owned())
}

/// What is left after the first so many.
fn tails(values: &[f64]) -> Vec<f64> {
    let mut left = vec![0.0; values.len() + 1];
    for (i, value) in values.iter().enumerate().rev() {
        left[i] = left[i + 1] + value;
    }
    left
}

/// Products of the given basis at the ranks.
pub(super) fn products(
    name: &str,
    problem: &Problem,
    basis: &Basis,
    ranks: &[usize],
) -> Result<Vec<Alternative>, CompressError> {
    let mut out = vec![];
    for rank in ranks.iter().copied() {
        for factors in factors() {
            let encoded = basis.product(problem.weight, rank, [&factors, &factors])?;
            out.push(Alternative::of(name, problem, &encoded));
        }
    }
    Ok(out)
}

/// A product of the given basis in one form.
pub(super) fn encode(
    name: &'static str,
    problem: &Problem,
    basis: &Basis,
    form: &Form,
) -> Result<Encoded, CompressError> {
    match form {
        Form::Product { rank, left, right } => {
            basis.product(problem.weight, *rank as usize, [left, right])
        }
        _ => Err(CompressError::Form {
            method: name,
            form: form.clone(),
        }),
    }
}

impl Method for Svd {
    fn name(&self) -> &'static str {
        "svd"
    }

    fn alternatives(&self, problem: &Problem) -> Result<Vec<Alternative>, CompressError> {
        let ranks = ranks(problem.shape());
        if ranks.is_empty() {
            return Ok(vec![]);
        }
        let (basis, _) = Basis::of(problem, problem.weight)?;
        products(self.name(), problem, &basis, &ranks)
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        let (basis, _) = Basis::of(problem, problem.weight)?;
        encode(self.name(), problem, &basis, form)
    }
}
