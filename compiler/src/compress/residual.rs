//! Integers plus low rank: what few bits lose of a weight is given back, as far as it has structure, by a thin product
//! beside it (LQER, Zhang et al. 2024, arXiv 2402.02446; the correction of NNCF). The base is GPTQ's; the product is the
//! best for what the base leaves, in the sense of the outputs. Of large weights it is told from a sample what that gives back.

use super::{
    Alternative, CompressError, Encoded, Form, Method, Problem, Sample,
    gptq::{self, Gptq},
    low_rank::{self, Basis},
    qr,
};
use faer::Mat;
use ir::{DType, Element};

/// See the module's text.
pub struct Residual;

/// How the product's factors are said.
const FACTORS: Form = Form::Grouped {
    element: Element::Q8,
    group: low_rank::STEP as u32,
};

/// The base, and what the factors are said in.
fn base(k: usize) -> Option<Form> {
    let fits = |group: &u32| k.is_multiple_of(*group as usize) && k > 0;
    let group = [128, 64, 32].into_iter().find(fits)?;
    Some(Form::integers(4, group))
}

/// Elements of weights that are looked at whole.
const MOST: usize = 1 << 22;

/// Whether weights of that shape are looked at whole: then what is told is what is.
pub(super) fn whole([n, k]: [usize; 2]) -> bool {
    n * k <= MOST && k <= n.max(2048) && base(k).is_some() && ranks([n, k]).next().is_some()
}

/// Ranks at which base and product together are smaller than 8 bits.
fn ranks([n, k]: [usize; 2]) -> impl Iterator<Item = usize> {
    let most = n * k / 2 / (n + k).max(1);
    [32, 64, 128].into_iter().filter(move |r| *r < most)
}

/// The share of what the base loses that products of each rank give back, at least: rows of one half of a sample say in which
/// directions errors lie, and the other half how much of its errors lies there. Of a part of the inputs the same part of a
/// rank is taken, as if each direction were of few inputs.
fn given_back(
    sample: &Sample,
    base: &Form,
    ranks: impl Iterator<Item = usize>,
) -> Result<Vec<f64>, CompressError> {
    let (rows, moments) = sample.part();
    let problem = Problem::new(&rows, sample.stored, moments);
    let rest = rows.minus(&gptq::grouped(&problem, base)?.decode());
    let gram = rest.times(moments.second()?).times(&rest.transposed());
    let half = rows.rows / 2;
    let at = |i: usize, j: usize| f64::from(gram.row(i)[j]);
    let (values, vectors) = low_rank::eigen(&Mat::from_fn(half, half, |i, j| at(2 * i, 2 * j)))?;
    let others = Mat::from_fn(half, half, |i, j| at(2 * i + 1, 2 * j)) * vectors;
    let whole: f64 = (0..half).map(|i| at(2 * i + 1, 2 * i + 1)).sum();
    let floor = values.first().copied().unwrap_or(0.0) * 1e-6;
    let along = |j: usize| match values[j] > floor {
        true => (0..half).map(|i| others[(i, j)].powi(2)).sum::<f64>() / values[j],
        false => 0.0,
    };
    let shares = ranks.map(|rank| {
        let columns = rank * rows.columns / sample.shape[1].max(1);
        match whole > 0.0 {
            true => (0..columns.min(half)).map(along).sum::<f64>() / whole,
            false => 0.0,
        }
    });
    Ok(shares.map(|share| share.min(1.0)).collect())
}

impl Residual {
    /// The base, and the basis of what it leaves.
    fn parts(problem: &Problem, base: &Form) -> Result<(Encoded, Basis), CompressError> {
        let integers = gptq::grouped(problem, base)?;
        let rest = problem.weight.minus(&integers.decode());
        let most = ranks(problem.shape()).last().unwrap_or(low_rank::STEP);
        let basis = qr::basis(problem, &rest, most)?;
        Ok((Encoded::Grouped(integers), basis))
    }

    fn sum(
        problem: &Problem,
        base: &Encoded,
        basis: &Basis,
        rank: usize,
        factors: [&Form; 2],
    ) -> Result<Encoded, CompressError> {
        let rest = problem.weight.minus(&base.decode(problem.weight));
        let product = basis.product(&rest, rank, factors)?;
        Ok(Encoded::Sum(Box::new(base.clone()), Box::new(product)))
    }
}

impl Method for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn forms(&self, shape: [usize; 2], _: DType) -> Vec<Form> {
        let Some(base) = base(shape[1]) else {
            return vec![];
        };
        let sum = |rank: usize| {
            let product = Form::product(rank as u32, FACTORS);
            Form::Sum(Box::new(base.clone()), Box::new(product))
        };
        ranks(shape).map(sum).collect()
    }

    fn alternatives(&self, sample: &Sample) -> Result<Vec<Alternative>, CompressError> {
        let forms = self.forms(sample.shape, sample.stored);
        let Some(Form::Sum(base, _)) = forms.first() else {
            return Ok(vec![]);
        };
        let Some(problem) = sample.whole().filter(|_| whole(sample.shape)) else {
            let error = sample.error(&Gptq, base)?;
            let given = given_back(sample, base, ranks(sample.shape))?.into_iter();
            let each = forms.iter().cloned().zip(given);
            let each = each
                .map(|(form, share)| sample.alternative(self.name(), form, error * (1.0 - share)));
            return Ok(each.collect());
        };
        let (base, basis) = Residual::parts(problem, base)?;
        let each = ranks(sample.shape).zip(&forms).map(|(rank, form)| {
            let sum = Residual::sum(problem, &base, &basis, rank, [&FACTORS, &FACTORS])?;
            let error = problem.error_of(&sum);
            Ok(sample.alternative(self.name(), form.clone(), error))
        });
        each.collect()
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        if let Form::Sum(base, rest) = form
            && let Form::Product { rank, left, right } = &**rest
        {
            let (base, basis) = Residual::parts(problem, base)?;
            return Residual::sum(problem, &base, &basis, *rank as usize, [left, right]);
        }
        Err(CompressError::Form {
            method: self.name(),
            form: form.clone(),
        })
    }
}
