//! Integers plus low rank: what few bits lose of a weight is given back, as far as it has structure, by a thin product
//! beside it (LQER, Zhang et al. 2024, arXiv 2402.02446; the correction of NNCF). The base is GPTQ's; the product is the
//! best for what the base leaves, in the sense of the outputs.

use super::{
    Alternative, CompressError, Encoded, Form, Method, Problem, Sample, gptq,
    low_rank::{self, Basis},
    qr,
};
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

/// Elements of weights that it is offered for: what GPTQ leaves is told from the whole weight alone.
const MOST: usize = 1 << 22;

/// Whether there is something to offer for weights of that shape.
pub(super) fn fits(shape: [usize; 2]) -> bool {
    let [n, k] = shape;
    n * k <= MOST && k <= n.max(2048) && base(k).is_some() && ranks(shape).next().is_some()
}

/// Ranks at which base and product together are smaller than 8 bits.
fn ranks([n, k]: [usize; 2]) -> impl Iterator<Item = usize> {
    let most = n * k / 2 / (n + k).max(1);
    [32, 64, 128].into_iter().filter(move |r| *r < most)
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
        let Some(base) = base(shape[1]).filter(|_| fits(shape)) else {
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
        let (Some(problem), Some(Form::Sum(base, _))) = (sample.whole(), forms.first()) else {
            return Ok(vec![]);
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
