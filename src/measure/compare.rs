//! Compares what a model gives with what a reference gives, output by output, and tells from hidden states in which
//! layer they part. Knows no files.

use super::{
    Error, Expected, Reference, Tolerance, argmax,
    forward::{forward, lacks},
    hidden::HiddenStates,
    reference::hidden_state,
};
use ir::artifact::Layer;
use runtime::Model;
use std::sync::Arc;

/// Where an output first leaves its tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Row of the inputs.
    pub sequence: usize,
    /// Token of that row; `None` for outputs of whole sequences.
    pub position: Option<usize>,
    /// Element of the output's row: the first past its tolerance, or the worst where rows have a tolerance.
    pub element: usize,
    /// What the model gives.
    pub found: f32,
    /// What the reference gives.
    pub expected: f32,
}

/// An output beside the reference's.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputComparison {
    /// `logits`, `last_hidden_state`, ...
    pub name: String,
    /// Rows compared.
    pub rows: usize,
    /// Rows of sequences that begin with padding, in outputs of whole sequences: not compared, as the reference pools
    /// what is at position 0, and a session the first token.
    pub padded: usize,
    /// Largest `|found - expected|`.
    pub max_absolute: f64,
    /// `norm(found - expected) / norm(expected)`.
    pub relative_l2: f64,
    /// Share of the rows whose largest element is the same; for `logits` only.
    pub top1: Option<f64>,
    /// What was allowed.
    pub tolerance: Tolerance,
    /// Where it is past its tolerance, if it is.
    pub divergence: Option<Divergence>,
}

/// The layers among which the first is that gives other values than the reference's, as far as the hidden states that
/// the reference holds tell: a single one where it holds all.
#[derive(Clone, Debug, PartialEq)]
pub struct Parting {
    /// Names of layers, in order.
    pub layers: Vec<String>,
    /// The hidden state before them, which is within its tolerance; `None` for the model's inputs.
    pub before: Option<String>,
    /// What is past its tolerance after them: a hidden state, or an output.
    pub after: String,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// In the reference's order.
    pub outputs: Vec<OutputComparison>,
    /// Whether continuations are equal, or `(sequence, token)` of the first difference; `None` where there are none.
    pub greedy: Option<Result<(), (usize, usize)>>,
    /// Hidden states of the reference that compiled code has no value for: a decoder's last, which comes after the
    /// final norm.
    pub skipped: Vec<String>,
    /// Where the model parts from the reference; `None` where it does not, or the reference holds no hidden states.
    pub parting: Option<Parting>,
}

impl Comparison {
    /// Whether everything is within its tolerance.
    pub fn passes(&self) -> bool {
        self.outputs.iter().all(|o| o.divergence.is_none()) && self.greedy.is_none_or(|g| g.is_ok())
    }

    /// The first row of the inputs that is past a tolerance, if one is.
    pub fn failing_sequence(&self) -> Option<usize> {
        let outputs = self.outputs.iter().filter_map(|o| o.divergence.as_ref());
        let outputs = outputs.map(|d| d.sequence);
        outputs.chain(self.greedy?.err().map(|(s, _)| s)).min()
    }
}

/// Runs `model` on the inputs of `reference` and compares everything that the reference has. `progress` is told
/// `(rows done, of)`.
///
/// # Errors
/// Inputs that the model does not take, or an output that it does not give.
pub fn compare(
    model: &Arc<Model>,
    reference: &Reference,
    threads: Option<usize>,
    progress: &dyn Fn(usize, usize),
) -> Result<Comparison, Error> {
    let states = reference.outputs.iter().any(|o| o.hidden_state().is_some());
    let hidden = states.then(|| HiddenStates::of(model.manifest()));
    let hidden = hidden.transpose()?;
    let (mut wanted, mut skipped) = (vec![], vec![]);
    for expected in &reference.outputs {
        match expected.hidden_state().zip(hidden.as_ref()) {
            Some((n, hidden)) if n > hidden.last() => {
                let has = format!("hidden_states.0 to hidden_states.{}", hidden.last());
                return Err(lacks(&expected.name, &has));
            }
            Some((n, hidden)) if hidden.layer(n).is_none() => skipped.push(expected.name.clone()),
            _ => wanted.push(expected),
        }
    }
    if wanted.is_empty() && reference.greedy.is_none() {
        return Err(Error::Mismatch(format!(
            "the reference holds only {}, which comes after the final norm and cannot be compared; store the logits or \
             other hidden states too",
            skipped.join(", ")
        )));
    }
    let found = forward(
        model,
        reference,
        &wanted,
        hidden.as_ref(),
        threads,
        progress,
    )?;
    let outputs = wanted.iter().zip(&found.outputs);
    let outputs: Vec<OutputComparison> = outputs
        .map(|(expected, found)| output(expected, found, reference))
        .collect();
    if let Some(output) = outputs.iter().find(|o| o.rows == 0 && o.padded > 0) {
        return Err(Error::Mismatch(format!(
            "every sequence begins with padding, which is what the reference's `{}` is of; make the reference with \
             padding on the right, or leave it out",
            output.name
        )));
    }
    let mut comparison = Comparison {
        outputs,
        greedy: reference
            .greedy
            .as_ref()
            .map(|expected| first_difference(expected, &found.greedy)),
        skipped,
        parting: None,
    };
    if let Some(hidden) = hidden {
        comparison.parting = parting(&comparison, &hidden, &model.manifest().plan.layers);
    }
    Ok(comparison)
}

fn parting(comparison: &Comparison, hidden: &HiddenStates, layers: &[Layer]) -> Option<Parting> {
    let (mut first, mut before) = (0, None);
    let part = |range: std::ops::Range<usize>, before: &Option<String>, after: &str| {
        let names = layers[range].iter().map(|l| l.name.to_string());
        Some(Parting {
            layers: names.collect(),
            before: before.clone(),
            after: after.into(),
        })
    };
    for (expected, output) in comparison
        .outputs
        .iter()
        .map(|o| (hidden_state(&o.name), o))
    {
        let Some(layer) = expected.and_then(|n| hidden.layer(n)) else {
            continue;
        };
        if output.divergence.is_some() {
            return part(first..layer + 1, &before, &output.name);
        }
        (first, before) = (layer + 1, Some(output.name.clone()));
    }
    let past = comparison.outputs.iter().find(|o| o.divergence.is_some());
    let past = past.map(|o| &*o.name);
    let past = past.or((!comparison.passes()).then_some("greedy"))?;
    part(first..layers.len(), &before, past)
}

/// Compares the rows that take part. What is not a number is infinitely wrong.
fn output(expected: &Expected, found: &[f32], reference: &Reference) -> OutputComparison {
    let rows = expected
        .data
        .chunks(expected.width)
        .zip(found.chunks(expected.width));
    let kept = |i: usize| match expected.per_token {
        true => reference.is_kept(i),
        false => reference.is_kept(i * reference.length),
    };
    let padded = match expected.per_token {
        true => 0,
        false => (0..reference.sequences).filter(|i| !kept(*i)).count(),
    };
    let rows: Vec<(usize, &[f32], &[f32])> = rows
        .enumerate()
        .filter(|(i, _)| kept(*i))
        .map(|(i, (want, got))| (i, want, got))
        .collect();
    let largest = expected.data.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let (mut max_absolute, mut same) = (0.0f64, 0);
    let (mut error, mut norm) = (0.0, 0.0);
    let mut divergence = None;
    for (i, want, got) in &rows {
        let row = Row::of(want, got);
        max_absolute = max_absolute.max(row.worst.1);
        error += row.error;
        norm += row.norm;
        same += usize::from(argmax(want) == argmax(got));
        if divergence.is_none() {
            let element = match expected.tolerance {
                Tolerance::RelativeL2(most) => {
                    (row.error.sqrt() > most * row.norm.sqrt()).then_some(row.worst.0)
                }
                Tolerance::Elements { absolute, relative } => {
                    let past = |(want, got): (&f32, &f32)| {
                        let error = difference(*want, *got);
                        let large = want.abs() >= largest / 100.0;
                        error > absolute || (large && error > relative * f64::from(want.abs()))
                    };
                    want.iter().zip(*got).position(past)
                }
            };
            divergence = element.map(|element| Divergence {
                sequence: if expected.per_token {
                    i / reference.length
                } else {
                    *i
                },
                position: expected.per_token.then_some(i % reference.length),
                element,
                found: got[element],
                expected: want[element],
            });
        }
    }
    let relative_l2 = match error.sqrt() / norm.sqrt() {
        ratio if ratio.is_nan() => 0.0,
        ratio => ratio,
    };
    // A row may be past a tolerance that the output as a whole keeps.
    if let Tolerance::RelativeL2(most) = expected.tolerance
        && relative_l2 <= most
    {
        divergence = None;
    }
    OutputComparison {
        name: expected.name.clone(),
        rows: rows.len(),
        padded,
        max_absolute,
        relative_l2,
        top1: (expected.name == "logits").then(|| same as f64 / rows.len().max(1) as f64),
        tolerance: expected.tolerance,
        divergence,
    }
}

/// Sums over a row.
struct Row {
    /// Squared errors.
    error: f64,
    /// Squares of what is wanted.
    norm: f64,
    /// Index and error of the worst element.
    worst: (usize, f64),
}

impl Row {
    fn of(want: &[f32], got: &[f32]) -> Row {
        let mut row = Row {
            error: 0.0,
            norm: 0.0,
            worst: (0, 0.0),
        };
        for (i, (want, got)) in want.iter().zip(got).enumerate() {
            let error = difference(*want, *got);
            row.error += error * error;
            row.norm += f64::from(*want).powi(2);
            if error > row.worst.1 {
                row.worst = (i, error);
            }
        }
        row
    }
}

fn difference(want: f32, got: f32) -> f64 {
    let error = (f64::from(want) - f64::from(got)).abs();
    if error.is_nan() { f64::INFINITY } else { error }
}

/// `(sequence, token)` where continuations first differ.
fn first_difference(expected: &[Vec<u32>], found: &[Vec<u32>]) -> Result<(), (usize, usize)> {
    for (i, (want, got)) in expected.iter().zip(found).enumerate() {
        if want != got {
            let same = want.iter().zip(got).take_while(|(a, b)| a == b).count();
            return Err((i, same));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(tolerance: Tolerance, mask: Option<Vec<u8>>) -> Reference {
        Reference {
            sequences: 1,
            length: 3,
            ids: vec![0; 3],
            pixels: None,
            mask,
            token_types: None,
            positions: None,
            outputs: vec![Expected {
                name: "logits".into(),
                width: 2,
                per_token: true,
                data: vec![1.0, 2.0, 3.0, -100.0, 0.5, 6.0],
                tolerance,
            }],
            greedy: None,
        }
    }

    #[test]
    fn the_first_element_past_its_tolerance_is_named() {
        let elements = |absolute, relative| Tolerance::Elements { absolute, relative };
        let check = |tolerance, mask: Option<Vec<u8>>, found: [f32; 6], expected| {
            let reference = reference(tolerance, mask);
            let result = output(&reference.outputs[0], &found, &reference);
            let place = result
                .divergence
                .map(|d| (d.position.unwrap_or(9), d.element));
            assert_eq!(place, expected, "{found:?} within {tolerance:?}");
        };
        let exact = [1.0, 2.0, 3.0, -100.0, 0.5, 6.0];
        let off = |i: usize, by: f32| {
            let mut found = exact;
            found[i] += by;
            found
        };
        check(elements(0.1, 0.01), None, exact, None);
        check(elements(0.1, 0.5), None, off(3, 0.2), Some((1, 1)));
        // 0.05 is within 0.1 but not within a hundredth of 2.
        check(elements(0.1, 0.01), None, off(1, 0.05), Some((0, 1)));
        // Below a hundredth of 100 only the absolute tolerance counts.
        check(elements(0.1, 0.01), None, off(4, 0.05), None);
        check(elements(0.1, 0.01), None, off(4, f32::NAN), Some((2, 0)));
        check(elements(0.1, 0.01), Some(vec![1, 1, 0]), off(4, 9.0), None);
        check(Tolerance::RelativeL2(0.1), None, off(3, 5.0), None);
        check(Tolerance::RelativeL2(0.1), None, off(3, 50.0), Some((1, 1)));
        // The first row alone is past a tenth; the output as a whole is not.
        check(Tolerance::RelativeL2(0.1), None, off(0, 1.0), None);
    }

    #[test]
    fn what_is_pooled_from_padding_is_not_compared() {
        let pooled = |mask: Vec<u8>| Reference {
            sequences: 3,
            length: 2,
            mask: Some(mask),
            outputs: vec![Expected {
                per_token: false,
                ..reference(Tolerance::RelativeL2(0.1), None).outputs[0].clone()
            }],
            ..reference(Tolerance::RelativeL2(0.1), None)
        };
        let check = |mask: [u8; 6], expected: (usize, usize, Option<usize>)| {
            let reference = pooled(mask.into());
            // The second sequence's row is wrong.
            let found = [1.0, 2.0, 3.0, 7.0, 0.5, 6.0];
            let found = output(&reference.outputs[0], &found, &reference);
            let past = found.divergence.map(|d| d.sequence);
            assert_eq!((found.rows, found.padded, past), expected, "{mask:?}");
        };
        check([1, 1, 1, 1, 1, 0], (3, 0, Some(1)));
        check([1, 1, 0, 1, 1, 0], (2, 1, None));
        check([0, 1, 1, 1, 0, 1], (1, 2, Some(1)));
        check([0, 1, 0, 1, 0, 1], (0, 3, None));
    }

    #[test]
    fn measures_by_hand() {
        let reference = reference(Tolerance::RelativeL2(1.0), Some(vec![1, 0, 1]));
        let found = output(
            &reference.outputs[0],
            &[1.0, 0.0, 0.0, 0.0, 0.5, 9.0],
            &reference,
        );
        assert_eq!(
            (found.rows, found.max_absolute, found.top1),
            (2, 3.0, Some(0.5))
        );
        // Errors 2 and 3; expected 1, 2, 0.5 and 6.
        assert!((found.relative_l2 - (13.0f64 / 41.25).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn continuations_differ_where_they_first_do() {
        let check = |found: &[&[u32]], expected| {
            let found: Vec<Vec<u32>> = found.iter().map(|f| f.to_vec()).collect();
            assert_eq!(
                first_difference(&[vec![1, 2], vec![3, 4]], &found),
                expected,
                "{found:?}"
            );
        };
        check(&[&[1, 2], &[3, 4]], Ok(()));
        check(&[&[1, 2], &[3, 5]], Err((1, 1)));
        check(&[&[1], &[3, 4]], Err((0, 1)));
    }
}
