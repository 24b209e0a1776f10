//! Rounding to nearest: the yardstick of all other methods. Looks at no inputs.

use super::{Alternative, CompressError, Encoded, Form, Integers, Matrix, Method, Problem};
use crate::fold;
use ir::DType;

/// Round each element to the nearest that the form can say.
pub struct Nearest;

/// Integers that kernels have, as bits and group.
pub const INTEGERS: &[(u8, u32)] = &[(8, 64), (8, 32), (4, 128), (4, 64), (4, 32)];

/// Those that fit `k` inputs.
pub fn integers(k: usize) -> impl Iterator<Item = Form> {
    let fits = move |(_, group): &&(u8, u32)| k > 0 && k.is_multiple_of(*group as usize);
    let forms = INTEGERS.iter().filter(fits);
    forms.map(|(bits, group)| Form::integers(*bits, *group))
}

/// Bits and group of a form of integers for `k` inputs.
///
/// # Errors
/// Another form, which `method` does not give, or groups that do not divide the inputs.
pub fn grid(method: &'static str, form: &Form, k: usize) -> Result<(u8, usize), CompressError> {
    let Form::Integers { bits, group } = form else {
        let form = form.clone();
        return Err(CompressError::Form { method, form });
    };
    let group = *group as usize;
    match group > 0 && k.is_multiple_of(group) {
        true => Ok((*bits, group)),
        false => Err(CompressError::Sizes {
            what: "groups",
            found: group,
            wanted: k,
        }),
    }
}

/// A matrix `[N, K]` rounded to the nearest codes, as [`ir::ops::FakeQuantize`] does.
pub fn round(weight: &Matrix, bits: u8, group: usize) -> Integers {
    let (codes, scales) = fold::round(&weight.data, bits, group);
    Integers {
        bits,
        group,
        shape: [weight.rows, weight.columns],
        codes,
        scales,
    }
}

/// The matrix said in a form of floats or integers.
///
/// # Errors
/// Forms that rounding alone does not give.
pub fn encode(weight: &Matrix, form: &Form) -> Result<Encoded, CompressError> {
    if let Form::Float(dtype) = form {
        return Ok(Encoded::float(*dtype, weight));
    }
    let (bits, group) = grid("nearest", form, weight.columns)?;
    Ok(Encoded::Integers(round(weight, bits, group)))
}

impl Method for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn alternatives(&self, problem: &Problem) -> Result<Vec<Alternative>, CompressError> {
        let floats = [DType::BF16, DType::F16].map(Form::Float).into_iter();
        let floats = floats.filter(|_| problem.stored == DType::F32);
        let forms = floats.chain(integers(problem.weight.columns));
        let each = forms.map(|form| encode(problem.weight, &form));
        let each = each.map(|e| Ok(Alternative::of(self.name(), problem, &e?)));
        each.collect()
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        encode(problem.weight, form)
    }
}
