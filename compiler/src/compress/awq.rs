//! Activation-aware scales (AWQ, Lin et al. 2023, arXiv 2306.00978): columns that large inputs meet are made larger before
//! they are rounded, so that they lose less, and those inputs smaller by as much. The division goes into the gain of a norm
//! in front, where there is one, by the rules of the optimizer. Scales follow from the inputs alone, so that weights which
//! multiply the same inputs share the division.

use super::{CompressError, Encoded, Form, Method, Problem, clip, nearest};
use ir::DType;

/// See the module's text.
pub struct Awq;

/// Powers that are offered, in hundredths.
const POWERS: [u8; 2] = [25, 50];

/// Root mean squares of the inputs to a power, their geometric middle at one. Inputs that were (nearly) always zero are
/// treated as a ten thousandth of the largest.
fn scales(problem: &Problem, power: u8) -> Vec<f32> {
    let squares = problem.moments.squares();
    let most = squares.iter().fold(0.0f32, |most, x| most.max(*x));
    let least = most * 1e-8;
    let power = f32::from(power) / 200.0;
    let raw = squares.iter().map(|x| match most > 0.0 {
        true => x.max(least).powf(power),
        false => 1.0,
    });
    let raw: Vec<f32> = raw.collect();
    let (low, high) = raw.iter().fold((f32::INFINITY, 0.0f32), |(low, high), x| {
        (low.min(*x), high.max(*x))
    });
    let middle = (low * high).sqrt();
    raw.into_iter().map(|x| x / middle).collect()
}

fn encode(problem: &Problem, power: u8, form: &Form) -> Result<Encoded, CompressError> {
    let (element, group) = nearest::codes("awq", form, problem.weight.columns)?;
    let scale = scales(problem, power);
    let mut scaled = problem.weight.clone();
    for row in scaled.data.chunks_mut(scale.len().max(1)) {
        for (x, s) in row.iter_mut().zip(&scale) {
            *x *= s;
        }
    }
    let squares = problem.moments.squares().iter().zip(&scale);
    let importance: Vec<f32> = squares.map(|(h, s)| h / (s * s)).collect();
    let codes = clip::round(&scaled, &importance, element, group);
    Ok(Encoded::Scaled {
        power,
        scale,
        weight: Box::new(Encoded::Grouped(codes)),
    })
}

impl Method for Awq {
    fn name(&self) -> &'static str {
        "awq"
    }

    fn forms(&self, [_, k]: [usize; 2], _: DType) -> Vec<Form> {
        let forms = nearest::grouped(k).filter(clip::few);
        let scaled = |power, form: &Form| Form::Scaled {
            power,
            weight: Box::new(form.clone()),
        };
        let each = forms.flat_map(|form| POWERS.map(|power| scaled(power, &form)));
        each.collect()
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        match form {
            Form::Scaled { power, weight } => encode(problem, *power, weight),
            _ => Err(CompressError::Form {
                method: self.name(),
                form: form.clone(),
            }),
        }
    }
}
