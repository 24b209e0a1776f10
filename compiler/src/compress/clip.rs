//! Clipping: a scale smaller than the largest weight of a group wants, where that makes the others' errors smaller than
//! its own larger (the clip search of AWQ, Lin et al. 2023, arXiv 2306.00978; GPTQ's `--mse`). Errors are weighted by the
//! inputs' mean squares.

use super::{CompressError, Encoded, Form, Grouped, Matrix, Method, Problem, nearest};
use half::f16;
use ir::{DType, Element, Grid, nearest_integer};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Rounding to nearest with clipped scales.
pub struct Clip;

/// Scales that are tried: 1, 0.975, ... of what the largest weight wants.
const STEPS: usize = 20;
/// From one to the next.
const STEP: f32 = 0.025;

/// A matrix `[N, K]` in codes with the scales of least error, `importance` weighing each column's.
pub fn round(weight: &Matrix, importance: &[f32], element: Element, group: usize) -> Grouped {
    let arch = Arch::new();
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
            let grid = arch.dispatch(Search {
                weight,
                importance,
                element,
            });
            (*scale, *zero) = (f16::from_f32(grid.scale), grid.zero as i8);
            grid.codes(weight, codes);
        });
    out
}

/// Of a group the first of the grids that lose least; with the widest vectors there are.
struct Search<'a> {
    weight: &'a [f32],
    importance: &'a [f32],
    element: Element,
}

impl WithSimd for Search<'_> {
    type Output = Grid;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Grid {
        let (mut low, mut high) = (0.0f32, 0.0f32);
        for w in self.weight {
            (low, high) = (low.min(*w), high.max(*w));
        }
        let ends = |by: f32| (low * by, high * by);
        // Zero points are the same at every scale, and what f16 rounds off a scale decides nothing.
        let whole = Grid::between(self.element, ends(1.0), DType::F32);
        let (mut best, mut least) = (1.0, f32::INFINITY);
        for i in 0..STEPS {
            let by = 1.0 - STEP * i as f32;
            let scale = whole.scale * by;
            let error = error(self.weight, self.importance, Grid { scale, ..whole });
            if error < least {
                (best, least) = (by, error);
            }
        }
        Grid::between(self.element, ends(best), DType::F16)
    }
}

/// Squares of what a grid loses of a group, weighted: sums of several at a time, so that processors add them side by side. Integers
/// are told by a reciprocal, and may differ from the code beside a tie; scales are compared by it, and codes are not made of it.
#[inline(always)]
fn error(weight: &[f32], importance: &[f32], grid: Grid) -> f32 {
    const WIDE: usize = 16;
    let (weights, rest) = weight.as_chunks::<WIDE>();
    let (importances, beside) = importance.as_chunks::<WIDE>();
    let mut sums = [0.0; WIDE];
    let exact = |w: f32| grid.value(grid.code(w));
    if let Element::Int { .. } = grid.element
        && grid.scale > 0.0
    {
        let (least, most) = grid.element.codes();
        let (least, most) = ((least - grid.zero) as f32, (most - grid.zero) as f32);
        let inverse = 1.0 / grid.scale;
        for (weight, importance) in weights.iter().zip(importances) {
            for i in 0..WIDE {
                let code = nearest_integer((weight[i] * inverse).clamp(least, most));
                let lost = weight[i] - code * grid.scale;
                sums[i] += importance[i] * lost * lost;
            }
        }
    } else {
        for (w, h) in weights.as_flattened().iter().zip(importance) {
            sums[0] += h * (w - exact(*w)).powi(2);
        }
    }
    let rest = rest.iter().zip(beside);
    let rest: f32 = rest.map(|(w, h)| h * (w - exact(*w)).powi(2)).sum();
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0] + rest
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
    match problem.clipped {
        Some(known) => Ok(known.get(problem, element, group)),
        None => Ok(codes(problem, element, group)),
    }
}

fn codes(problem: &Problem, element: Element, group: usize) -> Grouped {
    let squares = problem.moments.squares();
    // Inputs that this text never uses are not worth nothing.
    let floor = squares.iter().sum::<f32>() / squares.len() as f32 * 0.01;
    let importance: Vec<f32> = squares.iter().map(|x| x + floor).collect();
    round(problem.weight, &importance, element, group)
}

/// Codes with clipped scales of one weight and its inputs, for methods that ask for them one after another.
#[derive(Debug, Default)]
pub struct Clipped(Mutex<BTreeMap<(Element, usize), Arc<Grouped>>>);

impl Clipped {
    fn get(&self, problem: &Problem, element: Element, group: usize) -> Grouped {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&(element, group)).cloned();
        let found = known.unwrap_or_else(|| {
            let found = Arc::new(codes(problem, element, group));
            lock().insert((element, group), Arc::clone(&found));
            found
        });
        Grouped::clone(&found)
    }
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
    matches!(form, Form::Grouped { element, .. } if element.bits() <= 4)
}
