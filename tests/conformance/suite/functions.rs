//! Accuracy of the functions that generated code approximates, over the whole line, against the interpreter's f64.

use super::{Compiled, at};
use crate::{stored, targets};
use ir::{Graph, Tensor};

/// A dense grid, every power of two, and the places where approximations break.
fn arguments() -> Vec<f64> {
    let grid = (-20_000..=20_000).map(|i| f64::from(i) / 1000.0);
    let wide = (-2000..=2000).map(|i| f64::from(i) / 10.0);
    let powers = (-149..=6).flat_map(|e| [1.0, 1.5].map(|m| m * f64::from(e).exp2()));
    let powers = powers.flat_map(|x| [x, -x]);
    let edges = [
        0.0, -0.0, 88.37, 87.0, -87.3, -87.4, -88.0, -103.0, -104.0, -1000.0, -1e30, 4.0, -4.0,
        7.99, 8.0, 1e-40,
    ];
    let all = grid.chain(wide).chain(powers).chain(edges);
    all.map(|x| f64::from(x as f32)).collect()
}

/// The body of a graph of `x: f32[T]`; the arguments it is for; how far from the true value the result may be.
type Function = (&'static str, fn(f64) -> bool, fn(f64, f64) -> f64);

const FUNCTIONS: &[Function] = &[
    // Beyond 88.37 the result saturates below the largest f32.
    ("exp(x)", |x| x <= 88.37, |_, y| 4e-7 * y.max(1.0)),
    ("tanh(x)", |_| true, |_, _| 4e-7),
    ("erf(x)", |_| true, |_, _| 4e-7),
    ("sin(x)", |x| x.abs() <= 200.0, |_, _| 4e-7),
    ("cos(x)", |x| x.abs() <= 200.0, |_, _| 4e-7),
    ("rsqrt(x)", |x| x > 1e-37, |_, y| 3e-7 * y),
    ("sigmoid(x)", |_| true, |_, _| 4e-7),
    ("silu(x)", |_| true, |x, _| 4e-7 * x.abs().max(1.0)),
    ("gelu(x)", |_| true, |x, _| 6e-7 * x.abs().max(1.0)),
    (
        "gelu_tanh(x)",
        |x| x.abs() < 1e6,
        |x, _| 6e-7 * x.abs().max(1.0),
    ),
    ("relu(x)", |_| true, |_, _| 0.0),
];

#[test]
fn functions_stay_within_their_bounds() {
    for (body, domain, bound) in FUNCTIONS {
        let xs: Vec<f64> = arguments().into_iter().filter(|x| domain(*x)).collect();
        // As vectors and as single elements: both widths of the code.
        for (shape, size) in [("[T,4]", 4), ("[T]", 1)] {
            let rows = xs.len() / size;
            let text = format!("sym T <= 65536\ngraph(x: f32{shape}) {{ return {body} }}");
            let graph: Graph = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            let sizes = [("T", rows as u32)];
            let shape = if size == 1 {
                vec![rows]
            } else {
                vec![rows, size]
            };
            let x = vec![Tensor::new(shape, xs[..rows * size].to_vec())];
            let wanted = graph.eval(&x, &at(&sizes)).unwrap();
            for target in targets() {
                let compiled = Compiled::new(&text, &graph, &x, &sizes, &stored(&target)).unwrap();
                let got = compiled.run(&x, &sizes, 1);
                for ((x, got), want) in x[0].data.iter().zip(&got[0].data).zip(&wanted[0].data) {
                    assert!(
                        (got - want).abs() <= bound(*x, *want),
                        "{body} at {x:e} for {target}: {got:e}, should be {want:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn softmax_of_extreme_rows() {
    let rows = [
        [0.0; 5],
        [1e30, 1e30, 0.0, -1e30, 1.0],
        [-1e30; 5],
        [88.0, 0.0, -88.0, 87.0, 86.0],
        [1e-40, -1e-40, 0.0, -0.0, 1e-45],
        [-1e30, -1e30, -1e30, -1e30, 3.0],
    ];
    let text = "sym T <= 64\ngraph(x: f32[T,5]) { return softmax(x) }";
    let graph: Graph = text.parse().unwrap();
    let sizes = [("T", rows.len() as u32)];
    let data = rows.as_flattened().iter().map(|x| f64::from(*x as f32));
    let x = vec![Tensor::new(vec![rows.len(), 5], data.collect::<Vec<_>>())];
    let wanted = graph.eval(&x, &at(&sizes)).unwrap();
    for target in targets() {
        let compiled = Compiled::new(text, &graph, &x, &sizes, &stored(&target)).unwrap();
        for (got, want) in compiled.run(&x, &sizes, 1)[0]
            .data
            .iter()
            .zip(&wanted[0].data)
        {
            assert!((got - want).abs() <= 4e-7, "{got:e}, should be {want:e}");
        }
    }
}
