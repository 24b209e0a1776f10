//! Clipping: a scale smaller than the largest weight of a group wants, where that makes the others' errors smaller than
//! its own larger (the clip search of AWQ, Lin et al. 2023, arXiv 2306.00978; GPTQ's `--mse`). Errors are weighted by the
//! inputs' mean squares.

use super::{CompressError, Encoded, Form, Grouped, Matrix, Method, Problem, nearest};
use half::f16;
use ir::{DType, Element, Grid, nearest_integer};
use rayon::prelude::*;

/// Rounding to nearest with clipped scales.
pub struct Clip;

/// Scales that are tried: 1, 0.975, ... of what the largest weight wants.
const STEPS: usize = 20;
/// From one to the next.
const STEP: f32 = 0.025;

/// A matrix `[N, K]` in codes with the scales of least error, `importance` weighing each column's.
pub fn round(weight: &Matrix, importance: &[f32], element: Element, group: usize) -> Grouped {
    let groups = weight.data.len() / group.max(1);
    let mut out = Grouped {
        element,
        group,
        shape: [weight.rows, weight.columns],
        codes: vec![0; weight.data.len()],
        scales: vec![f16::ZERO; groups],
        zeros: vec![0; groups],
    };
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
            let error = |grid: Grid| error(weight, importance, grid);
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

/// Squares of what a grid loses of a group, weighted: sums of eight at a time, so that processors add them side by side. Integers
/// are told by a reciprocal, and may differ from the code beside a tie; scales are compared by it, and codes are not made of it.
fn error(weight: &[f32], importance: &[f32], grid: Grid) -> f32 {
    const WIDE: usize = 8;
    let inverse = match grid.scale > 0.0 {
        true => 1.0 / grid.scale,
        false => 0.0,
    };
    let (least, most) = grid.element.codes();
    let (least, most) = ((least - grid.zero) as f32, (most - grid.zero) as f32);
    let near = |w: f32| match grid.element {
        Element::Int { .. } => nearest_integer((w * inverse).clamp(least, most)) * grid.scale,
        Element::E4M3 => grid.value(grid.code(w)),
    };
    let mut sums = [0.0; WIDE];
    for (weight, importance) in weight.chunks(WIDE).zip(importance.chunks(WIDE)) {
        for ((sum, w), h) in sums.iter_mut().zip(weight).zip(importance) {
            let lost = w - near(*w);
            *sum += h * lost * lost;
        }
    }
    sums.iter().sum()
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
    let squares = problem.moments.squares();
    // Inputs that this text never uses are not worth nothing.
    let floor = squares.iter().sum::<f32>() / squares.len() as f32 * 0.01;
    let importance: Vec<f32> = squares.iter().map(|x| x + floor).collect();
    Ok(round(problem.weight, &importance, element, group))
}

impl Method for Clip {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn forms(&self, [_, k]: [usize; 2], _: DType) -> Vec<Form> {
        // With 8 bits there is nothing to be gained.
        nearest::grouped(k).filter(few).collect()
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        Ok(Encoded::Grouped(grouped(self.name(), problem, form)?))
    }
}

/// Whether codes have so few bits that the choice of scales matters.
pub fn few(form: &Form) -> bool {
    matches!(form, Form::Grouped { element, .. } if element.bits() < 8)
}
