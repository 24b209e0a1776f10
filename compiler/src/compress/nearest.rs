//! Rounding to nearest: the yardstick of all other methods. Looks at no inputs.

use super::{CompressError, Encoded, Form, Grouped, Matrix, Method, Problem};
use crate::fold;
use ir::{DType, Element};

/// Round each element to the nearest that the form can say.
pub struct Nearest;

/// Elements that are worth choosing among, and their groups: every method that rounds offers them.
pub const GROUPED: &[(Element, u32)] = &[
    (Element::Q8, 64),
    (Element::Q8, 32),
    (Element::Q7, 64),
    (Element::U4, 32),
    (Element::Q4, 128),
    (Element::Q4, 64),
    (Element::Q4, 32),
    (Element::U3, 32),
    (Element::Q3, 32),
];

/// Elements in which weights of f32 alone are worth storing: what bf16 takes, and nearly exact; what q8 takes, of another shape.
const WIDE: &[(Element, u32)] = &[(Element::Q16, 64), (Element::E4M3, 64)];

/// Forms of [`GROUPED`] that fit `k` inputs.
pub fn grouped(k: usize) -> impl Iterator<Item = Form> {
    fitting(GROUPED, k)
}

fn fitting(all: &[(Element, u32)], k: usize) -> impl Iterator<Item = Form> {
    let fits = move |(_, group): &&(Element, u32)| k > 0 && k.is_multiple_of(*group as usize);
    let forms = all.iter().filter(fits);
    forms.map(|(element, group)| Form::grouped(*element, *group))
}

/// Element and group of a form of codes for `k` inputs.
///
/// # Errors
/// Another form, which `method` does not give, or groups that do not divide the inputs.
pub fn codes(
    method: &'static str,
    form: &Form,
    k: usize,
) -> Result<(Element, usize), CompressError> {
    let Form::Grouped { element, group } = form else {
        let form = form.clone();
        return Err(CompressError::Form { method, form });
    };
    let group = *group as usize;
    match group > 0 && k.is_multiple_of(group) {
        true => Ok((*element, group)),
        false => Err(CompressError::Sizes {
            what: "groups",
            found: group,
            wanted: k,
        }),
    }
}

/// A matrix `[N, K]` rounded to the nearest codes, as [`ir::ops::FakeQuantize`] does.
pub fn round(weight: &Matrix, element: Element, group: usize) -> Grouped {
    let (codes, scales, zeros) = fold::round(&weight.data, element, group);
    Grouped {
        element,
        group,
        shape: [weight.rows, weight.columns],
        codes,
        scales,
        zeros,
    }
}

/// The matrix said in a form of floats or codes.
///
/// # Errors
/// Forms that rounding alone does not give.
pub fn encode(weight: &Matrix, form: &Form) -> Result<Encoded, CompressError> {
    if let Form::Float(dtype) = form {
        return Ok(Encoded::float(*dtype, weight));
    }
    let (element, group) = codes("nearest", form, weight.columns)?;
    Ok(Encoded::Grouped(round(weight, element, group)))
}

impl Method for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn forms(&self, [_, k]: [usize; 2], stored: DType) -> Vec<Form> {
        let floats = [DType::BF16, DType::F16].map(Form::Float).into_iter();
        let wide = floats.chain(fitting(WIDE, k));
        let wide = wide.filter(|_| stored == DType::F32);
        wide.chain(grouped(k)).collect()
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        encode(problem.weight, form)
    }
}
