//! Clipping: a scale smaller than the largest weight of a group wants, where that makes the others' errors smaller than
//! its own larger (the clip search of AWQ, Lin et al. 2023, arXiv 2306.00978; GPTQ's `--mse`). Errors are weighted by the
//! inputs' mean squares.

use super::{
    Alternative, CompressError, Encoded, Form, Integers, Matrix, Method, Problem, nearest,
};
use crate::fold::{code, most};
use half::f16;
use rayon::prelude::*;

/// Rounding to nearest with clipped scales.
pub struct Clip;

/// Scales that are tried: 1, 0.975, ... of what the largest weight wants.
const STEPS: usize = 20;
/// From one to the next.
const STEP: f32 = 0.025;

/// A matrix `[N, K]` in integers with the scales of least error, `importance` weighing each column's.
pub fn round(weight: &Matrix, importance: &[f32], bits: u8, group: usize) -> Integers {
    let most = most(bits);
    let mut out = nearest::round(weight, bits, group);
    let per_row = (weight.columns / group.max(1)).max(1);
    let groups = weight
        .data
        .par_chunks(group)
        .zip(out.codes.par_chunks_mut(group));
    let groups = groups.zip(&mut out.scales).enumerate();
    groups.for_each(|(i, ((weight, codes), scale))| {
        let importance = &importance[i % per_row * group..][..group];
        let error = |scale: f32| -> f32 {
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let each = weight.iter().zip(importance).map(|(w, h)| {
                let code = (w * inverse).round_ties_even().clamp(-most, most);
                let error = w - scale * code;
                h * error * error
            });
            each.sum()
        };
        let full = scale.to_f32();
        let mut best = (error(full), full);
        for i in 1..STEPS {
            // What is stored is what is tried.
            let tried = f16::from_f32(full * (1.0 - STEP * i as f32)).to_f32();
            let found = error(tried);
            if found < best.0 {
                best = (found, tried);
            }
        }
        *scale = f16::from_f32(best.1);
        for (to, w) in codes.iter_mut().zip(weight) {
            *to = code(*w, best.1, most);
        }
    });
    out
}

/// The problem's weight in integers with clipped scales.
///
/// # Errors
/// As [`nearest::grid`].
pub fn integers(
    method: &'static str,
    problem: &Problem,
    form: &Form,
) -> Result<Integers, CompressError> {
    let (bits, group) = nearest::grid(method, form, problem.weight.columns)?;
    let squares: Vec<f32> = problem.moments.second().diagonal().collect();
    // Inputs that this text never uses are not worth nothing.
    let floor = squares.iter().sum::<f32>() / squares.len() as f32 * 0.01;
    let importance: Vec<f32> = squares.iter().map(|x| x + floor).collect();
    Ok(round(problem.weight, &importance, bits, group))
}

impl Method for Clip {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn alternatives(&self, problem: &Problem) -> Result<Vec<Alternative>, CompressError> {
        // With 8 bits there is nothing to be gained.
        let forms = nearest::integers(problem.weight.columns);
        let forms = forms.filter(|f| matches!(f, Form::Integers { bits, .. } if *bits < 8));
        let each = forms.map(|form| self.encode(problem, &form));
        let each = each.map(|e| Ok(Alternative::of(self.name(), problem, &e?)));
        each.collect()
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        let integers = integers(self.name(), problem, form)?;
        Ok(Encoded::Integers(integers))
    }
}
