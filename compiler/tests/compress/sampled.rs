//! Errors that are told from a sample of a weight are about those of the whole.

use super::{problem, random};
use compiler::compress::{METHODS, Matrix, Method, Moments, Problem, Sample};

/// Inputs as layers have them: a few directions that many share, some inputs far larger than others, and what each has alone.
fn inputs(k: usize, tokens: usize) -> Moments {
    let shared = random(tokens, 96, 11).times(&random(96, k, 12));
    let own = random(tokens, k, 13);
    let sizes = random(1, k, 14);
    let at = |i: usize, j: usize| {
        let size = (2.0 * sizes.data[j]).exp() * if j % 97 == 5 { 6.0 } else { 1.0 };
        size * (0.3 * shared.row(i)[j] + own.row(i)[j])
    };
    Moments::of(&Matrix::from_fn(tokens, k, at))
}

/// Rows of sizes that differ threefold, with groups that do, too.
fn weight(n: usize, k: usize) -> Matrix {
    let mut w = random(n, k, 1);
    let sizes = random(n, k / 32, 2);
    for (i, row) in w.data.chunks_mut(k).enumerate() {
        for (j, x) in row.iter_mut().enumerate() {
            *x *= x.abs() * (0.5 * sizes.row(i)[j / 32]).exp() * (1.0 + (i % 7) as f32 / 3.0);
        }
    }
    w
}

/// The largest factor by which an error told from a sample is off, over all forms that methods say row by row.
fn off(problem: &Problem) -> (f64, String) {
    let sample = Sample::of(problem).unwrap();
    let mut worst = (1.0, String::new());
    for method in METHODS.iter().take(5) {
        for a in method.alternatives(&sample).unwrap() {
            let encoded = method.encode(problem, &a.form).unwrap();
            let error = problem.error_of(&encoded);
            let by = (a.error / error).max(error / a.error);
            println!("{} {}: {:.4}", a.method, a.form, a.error / error);
            if by > worst.0 {
                worst = (by, format!("{} {}: {error} for {}", a.method, a.form, a.error));
            }
        }
    }
    worst
}

#[test]
fn errors_of_many_rows_are_told_from_some() {
    let (weight, moments) = (weight(1400, 256), inputs(256, 1024));
    let (by, which) = off(&problem(&weight, &moments));
    assert!(by > 1.0 && by < 1.08, "{which}");
}

#[test]
fn errors_of_many_inputs_are_told_from_parts_of_them() {
    let (weight, moments) = (weight(160, 4096), inputs(4096, 8192));
    let (by, which) = off(&problem(&weight, &moments));
    assert!(by > 1.0 && by < 1.15, "{which}");
}
