//! Low rank, in the sense of the outputs: with inputs of second moments H, the best product of rank r in place of W is
//! `U_r U_r^T W`, where `U_r` are the leading eigenvectors of `W H W^T`, the outputs' second moments. That is
//! activation-whitened SVD (SVD-LLM, Wang et al. 2024, arXiv 2403.07378: `W S = U Sigma V^T` with `H = S S^T`) without the
//! inverse of `S`, which singular moments do not have. One decomposition gives the error at every rank.
//!
//! Outputs that matter more weigh more: `U` is computed for `F^1/2 W`, with `F` the Fisher weights.

use super::{
    Alternative, CompressError, Encoded, Form, Matrix, Method, Problem, Sample, nearest, spectrum,
};
use faer::{Mat, MatRef};
use ir::DType;

/// Factors from a singular value decomposition: the best there are.
pub struct Svd;

/// Ranks are multiples of this: what tiles and groups of integers want.
pub const STEP: usize = 32;
/// Of the smaller side of weights whose eigenvalues are all computed.
const MOST: usize = 1024;

/// The error of the best product of each rank, from 0 to the least of the weight's sizes; see [`Problem::error`].
///
/// # Errors
/// Eigenvalues that do not converge, moments that are those of no inputs.
pub fn curve(problem: &Problem) -> Result<Vec<f64>, CompressError> {
    Ok(Basis::of(problem, problem.weight)?.1)
}

/// How factors of weights of `k` inputs are said.
fn factors(k: usize) -> Vec<Form> {
    let all = [Form::Float(DType::BF16), Form::integers(8, STEP as u32)];
    let fits = |form: &Form| matches!(form, Form::Float(_)) || k.is_multiple_of(STEP);
    all.into_iter().filter(fits).collect()
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
        let second = wide(problem.moments.second()?);
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

    /// For each of [`factors`] the error of the product of each rank up to `most`, where its factors are said so: what the first
    /// columns leave, and what rounding adds to the rows and columns that are there, each error independent of all others.
    ///
    /// # Errors
    /// Moments of inputs alone.
    fn errors(&self, problem: &Problem, most: usize) -> Result<Vec<Vec<f64>>, CompressError> {
        let (left, right) = self.factors(problem.weight, most);
        let (n, k, most) = (left.rows, right.columns, right.rows);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum()
        };
        // Mean squares of the outputs along each column of the basis.
        let spread = right.times(problem.moments.second()?);
        let along: Vec<f64> = (0..most)
            .map(|j| dot(right.row(j), spread.row(j)).max(0.0))
            .collect();
        let beyond = problem.error(&left.times(&right));
        let squares = problem.moments.squares();
        let factors = factors(k);
        let mut out = vec![vec![0.0; most + 1]; factors.len()];
        for (out, form) in out.iter_mut().zip(factors) {
            let lost = |m: &Matrix| Ok(m.minus(&nearest::encode(m, &form)?.decode(m)));
            let (left, right) = (lost(&left)?, lost(&right)?);
            let of_left = |j: usize| {
                let rows = (0..n).map(|i| self.roots[i] * f64::from(left.data[i * most + j]));
                rows.map(|x| x * x).sum::<f64>() * along[j]
            };
            let of_right = |j: usize| {
                let row = &right.data[j * k..][..k];
                let each = row.iter().zip(squares);
                each.map(|(d, h)| f64::from(*d).powi(2) * f64::from(*h))
                    .sum::<f64>()
            };
            out[most] = beyond;
            for j in (0..most).rev() {
                out[j] = out[j + 1] + along[j];
            }
            let mut rounding = 0.0;
            for j in 0..most {
                rounding += of_left(j) + of_right(j);
                out[j + 1] += rounding;
            }
        }
        Ok(out)
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
pub(super) fn eigen(symmetric: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), CompressError> {
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

/// Forms of products of the possible ranks.
pub(super) fn forms(shape: [usize; 2], most: usize) -> Vec<Form> {
    let ranks = spectrum::possible(shape).into_iter();
    let ranks = ranks.filter(|rank| *rank <= most);
    let factors = factors(shape[1]);
    let product = |rank: usize, f: &Form| Form::product(rank as u32, f.clone());
    let each = ranks.flat_map(|rank| factors.iter().map(move |f| product(rank, f)));
    each.collect()
}

/// Products of a basis at the ranks that may pay, with their errors.
pub(super) fn alternatives(
    method: &dyn Method,
    sample: &Sample,
    basis: impl FnOnce(&Problem, usize) -> Result<Basis, CompressError>,
) -> Result<Vec<Alternative>, CompressError> {
    let forms = method.forms(sample.shape, sample.stored);
    let rank = |form: &Form| match form {
        Form::Product { rank, .. } => *rank as usize,
        _ => 0,
    };
    let forms = forms.into_iter();
    let forms: Vec<Form> = forms
        .filter(|form| sample.ranks().contains(&rank(form)))
        .collect();
    let (Some(problem), Some(most)) = (sample.whole(), forms.iter().map(rank).max()) else {
        return Ok(vec![]);
    };
    let errors = basis(problem, most)?.errors(problem, most)?;
    let each = forms.into_iter().map(|form| {
        let (_, of) = factors(sample.shape[1])
            .into_iter()
            .zip(&errors)
            .find(|(f, _)| matches!(&form, Form::Product { left, .. } if **left == *f))
            .ok_or_else(|| CompressError::Form {
                method: method.name(),
                form: form.clone(),
            })?;
        let error = of[rank(&form)];
        Ok(sample.alternative(method.name(), form, error))
    });
    each.collect()
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

    fn forms(&self, shape: [usize; 2], _: DType) -> Vec<Form> {
        match shape[0].min(shape[1]) <= MOST {
            true => forms(shape, MOST),
            false => vec![],
        }
    }

    fn alternatives(&self, sample: &Sample) -> Result<Vec<Alternative>, CompressError> {
        alternatives(self, sample, |problem, _| {
            Ok(Basis::of(problem, problem.weight)?.0)
        })
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        let (basis, _) = Basis::of(problem, problem.weight)?;
        encode(self.name(), problem, &basis, form)
    }
}
