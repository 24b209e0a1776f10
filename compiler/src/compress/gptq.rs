//! Rounding with second-moment error feedback: GPTQ (Frantar, Ashkboos, Hoefler & Alistarh 2023, arXiv 2210.17323), with
//! its activation order and static groups. Columns are rounded one after another, those of large inputs first, and what
//! each lost is taken over by the columns that are still to come.

use super::{
    CompressError, Encoded, Form, Grouped, Matrix, Method, Problem, clip, matrix::threads, nearest,
};
use faer::{
    Accum, Mat,
    dyn_stack::{MemBuffer, MemStack},
    linalg::{cholesky::llt::factor as llt, matmul::matmul},
};
use ir::DType;
use pulp::{Arch, Simd, WithSimd};
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

/// How an error in one input's weight is best made up for by the others': depends on the inputs alone. The paper's factor of the
/// inverse is not computed: rounding by it is Babai's nearest plane for a factor of the moments themselves (Chen et al. 2025,
/// arXiv 2507.18553), which takes a third of the work.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// Inputs in the order in which their weights are rounded, from the last to the first.
    order: Vec<usize>,
    /// `[K, K]`, unit lower triangular: `L D L^T` is the damped second moments in that order.
    factor: Mat<f32>,
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
        order.sort_by(|a, b| diagonal[*a].total_cmp(&diagonal[*b]).then(b.cmp(a)));
        // Columns are rows: moments are symmetric.
        let mut lower = Mat::<f64>::zeros(k, k);
        for (j, column) in lower.col_iter_mut().enumerate() {
            let row = second.row(order[j]);
            let own = diagonal[order[j]] + damping;
            for (i, to) in column.iter_mut().enumerate().skip(j) {
                let from = order[i];
                *to = match i == j {
                    true => own,
                    false if dead[from] || dead[order[j]] => 0.0,
                    false => row[from].into(),
                };
            }
        }
        let par = threads(k * k * k / 6);
        let mut memory = MemBuffer::new(llt::cholesky_in_place_scratch::<f64>(
            k,
            par,
            Default::default(),
        ));
        llt::cholesky_in_place(
            lower.as_mut(),
            Default::default(),
            par,
            MemStack::new(&mut memory),
            Default::default(),
        )
        .map_err(|_| CompressError::Indefinite)?;
        let mut factor = Mat::<f32>::zeros(k, k);
        for (j, (to, from)) in factor.col_iter_mut().zip(lower.col_iter()).enumerate() {
            let by = 1.0 / from[j];
            for (to, from) in to.iter_mut().zip(from.iter()).skip(j) {
                *to = (from * by) as f32;
            }
        }
        Ok(Feedback { order, factor })
    }

    /// Chooses the codes anew, for the scales that are there.
    pub fn round(&self, weight: &Matrix, mut said: Grouped) -> Grouped {
        let (arch, group, [n, k]) = (Arch::new(), said.group, said.shape);
        // Weights, and what they take over.
        let mut w = Matrix::zeros(n, k);
        let rows = w.data.par_chunks_mut(k.max(1)).enumerate();
        rows.for_each(|(i, row)| {
            let from = weight.row(i);
            for (to, column) in row.iter_mut().zip(&self.order) {
                *to = from[*column];
            }
        });
        let mut codes = vec![0i16; n * k];
        for start in (0..k).step_by(BLOCK).rev() {
            let end = (start + BLOCK).min(k);
            let mut errors = Matrix::zeros(n, end - start);
            let rows = w.data.par_chunks(k).zip(codes.par_chunks_mut(k));
            let rows = rows
                .zip(errors.data.par_chunks_mut(end - start))
                .enumerate();
            rows.for_each(|(row, ((w, codes), errors))| {
                for i in (start..end).rev() {
                    let column = self.order[i];
                    let grid = said.grid(row * (k / group) + column / group);
                    let later = &mut errors[i - start..];
                    let taken = arch.dispatch(Dot {
                        a: later,
                        b: &self.factor.col_as_slice(i)[i..end],
                    });
                    let code = grid.code(w[i] + taken);
                    codes[column] = code as i16;
                    later[0] = weight.row(row)[column] - grid.value(code);
                }
            });
            if start > 0 {
                matmul(
                    w.view_mut().subcols_mut(0, start),
                    Accum::Add,
                    errors.view(),
                    self.factor.submatrix(start, 0, end - start, start),
                    1.0f32,
                    threads(n * (end - start) * start),
                );
            }
        }
        said.codes = codes;
        said
    }
}

/// A sum of products, with the widest vectors there are.
struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        const WIDE: usize = 16;
        let (a, rest) = self.a.as_chunks::<WIDE>();
        let (b, beside) = self.b.as_chunks::<WIDE>();
        let mut sums = [0.0; WIDE];
        for (a, b) in a.iter().zip(b) {
            for i in 0..WIDE {
                sums[i] += a[i] * b[i];
            }
        }
        for (sum, (a, b)) in sums.iter_mut().zip(rest.iter().zip(beside)) {
            *sum += a * b;
        }
        sums.iter().sum()
    }
}
