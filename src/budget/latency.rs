//! Predicts how long a product takes in any of its forms, from those that were timed: leaves at the shapes of the model, all
//! else from the line through them. Runs nothing itself.

use super::{Costs, Error, costs::Product};
use compiler::{
    compress::{Form, Site},
    optimize::cost::{CostModel, Roofline},
};
use ir::{DType, artifact::Work};
use std::collections::BTreeMap;

/// Operations an element where rows are rounded.
const ROUNDING: u64 = 4;

/// Seconds of products by form and shape.
#[derive(Debug, Default)]
pub struct Latency {
    /// For each leaf form the points that were timed: bytes, seconds.
    timed: BTreeMap<String, BTreeMap<[usize; 2], (f64, f64)>>,
    tokens: usize,
}

impl Latency {
    /// Times every leaf of the forms offered, at the shape of each site.
    ///
    /// # Errors
    /// A product does not compile or run.
    pub fn of(
        sites: &[Site],
        forms: &[Vec<Form>],
        tokens: usize,
        costs: &mut Costs,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Latency, Error> {
        let elements: usize = sites.iter().map(|s| s.shape[0] * s.shape[1]).sum();
        let mut wanted: Vec<(Form, [usize; 2], DType)> = vec![];
        for (site, forms) in sites.iter().zip(forms) {
            let mut all = vec![];
            forms.iter().for_each(|f| leaves(f, &mut all));
            for form in all {
                let [n, k] = site.shape;
                let fits = match &form {
                    Form::Grouped { group, .. } => k.is_multiple_of(*group as usize),
                    Form::Dynamic(form) => {
                        matches!(**form, Form::Grouped { group, .. } if k.is_multiple_of(group as usize))
                    }
                    _ => n > 0,
                };
                let product = (form, site.shape, site.stored);
                if fits && !wanted.contains(&product) {
                    wanted.push(product);
                }
            }
        }
        let mut out = Latency {
            tokens,
            ..Latency::default()
        };
        for (i, (form, shape, stored)) in wanted.iter().enumerate() {
            progress(i, wanted.len());
            let bytes = form.bytes(*shape, *stored) as f64;
            let share = bytes / (shape[0] * shape[1]) as f64;
            let seconds = costs.of(&Product {
                shape: *shape,
                form: form.clone(),
                stored: *stored,
                tokens,
                working_set: (elements as f64 * share) as u64,
            })?;
            let points = out.timed.entry(label(form, *stored)).or_default();
            points.insert(*shape, (bytes, seconds));
        }
        Ok(out)
    }

    /// Seconds of a product with a weight `[n, k]` in a form.
    pub fn seconds(&self, form: &Form, [n, k]: [usize; 2], stored: DType) -> f64 {
        let of = |form, shape| self.seconds(form, shape, stored);
        match form {
            Form::Product { rank, left, right } => {
                let rank = *rank as usize;
                of(left, [n, rank]) + of(right, [rank, k])
            }
            Form::Sum(a, b) => of(a, [n, k]) + of(b, [n, k]),
            Form::Scaled { weight, .. } => of(weight, [n, k]),
            Form::Rotated { weight, .. } => of(weight, [n, k]) + self.rotation(form, k),
            leaf => self.leaf(leaf, [n, k], stored),
        }
    }

    /// Seconds of the kernel that rotates `k` inputs, by the analytic model: as if a kernel of its own did so, but where rows are
    /// rounded, which a kernel does anyway.
    pub fn rotation(&self, form: &Form, k: usize) -> f64 {
        let Form::Rotated { block, weight } = form else {
            return 0.0;
        };
        let elements = (k * self.tokens) as u64;
        let seconds = |sums: u64| {
            let work = Work {
                values: 2 * 4 * elements,
                elements,
                flops: elements * sums,
                ..Work::default()
            };
            Roofline::default().kernel(&work) as f64 * 1e-12
        };
        let rounded = match **weight {
            Form::Dynamic(_) => seconds(ROUNDING),
            _ => 0.0,
        };
        seconds(u64::from(block.max(&1).ilog2()) + 1 + ROUNDING) - rounded
    }

    fn leaf(&self, form: &Form, shape: [usize; 2], stored: DType) -> f64 {
        let bytes = form.bytes(shape, stored);
        let Some(points) = self.timed.get(&label(form, stored)) else {
            let flops = 2 * (shape[0] * shape[1] * self.tokens) as u64;
            let work = Work {
                weights: bytes,
                flops,
                ..Work::default()
            };
            return Roofline::default().kernel(&work) as f64 * 1e-12;
        };
        if let Some((_, seconds)) = points.get(&shape) {
            return *seconds;
        }
        let points: Vec<(f64, f64)> = points.values().copied().collect();
        line(&points, bytes as f64)
    }
}

/// What a form wants of its inputs: the block in which they are rotated, and the group in which they are then rounded. Forms
/// that want the same share the kernel that does it.
pub fn wanted(form: &Form) -> Option<(u32, Option<u32>)> {
    let Form::Rotated { block, weight } = form else {
        return None;
    };
    let group = match &**weight {
        Form::Dynamic(form) => match **form {
            Form::Grouped { group, .. } => Some(group),
            _ => None,
        },
        _ => None,
    };
    Some((*block, group))
}

/// Least squares through points, at `x`; through the origin's side never below a tenth of the nearest point's rate.
fn line(points: &[(f64, f64)], x: f64) -> f64 {
    let n = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n.max(1.0);
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let sxx: f64 = points.iter().map(|p| (p.0 - mx).powi(2)).sum();
    let sxy: f64 = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
    let slope = if sxx > 0.0 {
        (sxy / sxx).max(0.0)
    } else {
        my / mx.max(1.0)
    };
    let least = points
        .iter()
        .map(|p| p.1 / p.0.max(1.0))
        .fold(f64::INFINITY, f64::min);
    (my + slope * (x - mx)).max(0.1 * least * x)
}

fn label(form: &Form, stored: DType) -> String {
    match form {
        Form::Stored => stored.to_string(),
        form => form.to_string(),
    }
}

fn leaves(form: &Form, out: &mut Vec<Form>) {
    match form {
        Form::Product { left, right, .. } => {
            leaves(left, out);
            leaves(right, out);
        }
        Form::Sum(a, b) => {
            leaves(a, out);
            leaves(b, out);
        }
        Form::Scaled { weight, .. } | Form::Rotated { weight, .. } => leaves(weight, out),
        leaf if !out.contains(leaf) => out.push(leaf.clone()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_through_points() {
        let check = |points: &[(f64, f64)], x: f64, expected: f64| {
            let found = line(points, x);
            assert!(
                (found - expected).abs() < 1e-12,
                "{points:?} at {x}: {found}"
            );
        };
        check(&[(10.0, 3.0), (20.0, 5.0)], 30.0, 7.0);
        check(&[(10.0, 3.0)], 20.0, 6.0);
        check(&[(10.0, 5.0), (20.0, 5.0)], 5.0, 5.0);
    }
}
