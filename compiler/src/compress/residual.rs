//! Integers plus low rank: what few bits lose of a weight is given back, as far as it has structure, by a thin product
//! beside it (LQER, Zhang et al. 2024, arXiv 2402.02446; the correction of NNCF). The base is GPTQ's; the product is the
//! best for what the base leaves, in the sense of the outputs.

use super::{
    Alternative, CompressError, Encoded, Form, Method, Problem,
    low_rank::{self, Basis},
};

/// See the module's text.
pub struct Residual;

/// The base, and what the factors are said in.
fn base(k: usize) -> Option<Form> {
    let fits = |group: &u32| k.is_multiple_of(*group as usize) && k > 0;
    let group = [128, 64, 32].into_iter().find(fits)?;
    Some(Form::integers(4, group))
}

/// Ranks at which base and product together are smaller than 8 bits.
fn ranks([n, k]: [usize; 2]) -> impl Iterator<Item = usize> {
    let most = n * k / 2 / (n + k).max(1);
    [32, 64, 128].into_iter().filter(move |r| *r < most)
}

impl Residual {
    /// The base, and the basis of what it leaves.
    fn parts(problem: &Problem, base: &Form) -> Result<(Encoded, Basis), CompressError> {
        let integers = problem.moments.feedback()?.grouped(problem, base)?;
        let rest = problem.weight.minus(&integers.decode());
        let (basis, _) = Basis::of(problem, &rest)?;
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

    fn alternatives(&self, problem: &Problem) -> Result<Vec<Alternative>, CompressError> {
        let shape = problem.shape();
        let Some(form) = base(shape[1]).filter(|_| ranks(shape).next().is_some()) else {
            return Ok(vec![]);
        };
        let (base, basis) = Residual::parts(problem, &form)?;
        let factors = Form::integers(8, low_rank::STEP as u32);
        let each = ranks(shape).map(|rank| {
            let sum = Residual::sum(problem, &base, &basis, rank, [&factors, &factors])?;
            Ok(Alternative::of(self.name(), problem, &sum))
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
