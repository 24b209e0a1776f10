//! Clipping: a scale smaller than the largest weight of a group wants, where that makes the others' errors smaller than
//! its own larger (the clip search of AWQ, Lin et al. 2023, arXiv 2306.00978; GPTQ's `--mse`). Errors are weighted by the
//! inputs' mean squares.

use super::{Alternative, CompressError, Encoded, Form, Grouped, Matrix, Method, Problem, nearest};
use half::f16;
use ir::{DType, Element, Grid};
use rayon::prelude::*;

/// Rounding to nearest with clipped scales.
pub struct Clip;

/// Scales that are tried: 1, 0.975, ... of what the largest weight wants.
const STEPS: usize = 20;
/// From one to the next.
const STEP: f32 = 0.025;

/// A matrix `[N, K]` in codes with the scales of least error, `importance` weighing each column's.
pub fn round(weight: &Matrix, importance: &[f32], element: Element, group: usize) -> Grouped {
    let mut out = nearest::round(weight, element, group);
    let per_row = (weight.columns / group.max(1)).max(1);
    let groups = weight
        .data
        .par_chunks(group)
        .zip(out.codes.par_chunks_mut(group));
    let shared = out.scales.par_iter_mut().zip(&mut out.zeros);
    groups
        .zip(shared)
        .enumerate()
        .for_each(|(i, ((weight, codes), (scale, zero)))| {
            let importance = &importance[i % per_row * group..][..group];
            let error = |grid: Grid| -> f32 {
                let each = weight.iter().zip(importance).map(|(w, h)| {
                    let error = w - grid.value(grid.code(*w));
                    h * error * error
                });
                each.sum()
            };
            let ends = weight.iter().fold((0.0f32, 0.0f32), |(low, high), w| {
                (low.min(*w), high.max(*w))
            });
            let tried = (0..STEPS).map(|i| {
                let by = 1.0 - STEP * i as f32;
                Grid::between(element, (ends.0 * by, ends.1 * by), DType::F16)
            });
            // The first of the best.
            let best = tried
                .map(|grid| (error(grid), grid))
                .reduce(|best, next| if next.0 < best.0 { next } else { best });
            let Some((_, grid)) = best else { return };
            (*scale, *zero) = (f16::from_f32(grid.scale), grid.zero as i8);
            for (to, w) in codes.iter_mut().zip(weight) {
                *to = grid.code(*w) as i16;
            }
        });
    out
}

/// The problem's weight in codes with clipped scales.
///
/// # Errors
/// As [`nearest::codes`].
pub fn grouped(
    method: &'static str,
    problem: &Problem,
    form: &Form,
) -> Result<Grouped, CompressError> {
    let (element, group) = nearest::codes(method, form, problem.weight.columns)?;
    let squares: Vec<f32> = problem.moments.second().diagonal().collect();
    // Inputs that this text never uses are not worth nothing.
    let floor = squares.iter().sum::<f32>() / squares.len() as f32 * 0.01;
    let importance: Vec<f32> = squares.iter().map(|x| x + floor).collect();
    Ok(round(problem.weight, &importance, element, group))
}

impl Method for Clip {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn alternatives(&self, problem: &Problem) -> Result<Vec<Alternative>, CompressError> {
        // With 8 bits there is nothing to be gained.
        let forms = nearest::grouped(problem.weight.columns).filter(few);
        let each = forms.map(|form| self.encode(problem, &form));
        let each = each.map(|e| Ok(Alternative::of(self.name(), problem, &e?)));
        each.collect()
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        Ok(Encoded::Grouped(grouped(self.name(), problem, form)?))
    }
}

/// Whether codes have so few bits that the choice of scales matters.
pub fn few(form: &Form) -> bool {
    matches!(form, Form::Grouped { element, .. } if element.bits() < 8)
}
