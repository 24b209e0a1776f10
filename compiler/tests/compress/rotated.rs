//! Rotations before rounding: what outliers cost without and with them, and that errors are those that inputs show.

use super::{error_of, moments, problem, random};
use compiler::compress::{
    Encoded, Form, Matrix, Method, Moments, Problem, Sample, dynamic::Dynamic, gptq::Gptq,
    rotated::Rotated,
};
use ir::{Element, Tensor, ops, ops::OpDef};

const N: usize = 96;
const K: usize = 256;

/// Times an alternative's error without rotation what it is with it.
fn gain(problem: &Problem, form: &Form) -> f64 {
    let sample = Sample::of(problem).unwrap();
    let plain: &dyn Method = match form {
        Form::Dynamic(_) => &Dynamic,
        _ => &Gptq,
    };
    let plain = plain.alternatives(&sample).unwrap();
    let rotated = Rotated.alternatives(&sample).unwrap();
    error_of(&plain, form) / error_of(&rotated, &form.clone().rotated(64))
}

/// A weight of which one element of 97 is sixteen times as large.
fn outliers() -> Matrix {
    let mut weight = random(N, K, 11);
    weight.data.iter_mut().step_by(97).for_each(|x| *x *= 16.0);
    weight
}

/// Inputs of which some are so many times as large.
fn large_inputs(times: f32, large: impl Fn(usize) -> bool) -> Matrix {
    let mut inputs = random(4 * K, K, 12);
    let all = inputs.data.iter_mut().enumerate();
    let large = all.filter(|(i, _)| large(i % K));
    large.for_each(|(_, x)| *x *= times);
    inputs
}

#[test]
fn outliers_of_weights_and_of_inputs_are_spread() {
    let few = Form::grouped(Element::Q4, 64);
    let rows = Form::Dynamic(Box::new(Form::grouped(Element::Q8, 64)));
    let (even, apart) = (random(N, K, 10), moments(K, 4 * K, 1));
    let (outliers, large) = (
        outliers(),
        Moments::of(&large_inputs(30.0, |i| i % 64 == 5)),
    );
    let gains = [
        (
            "outliers of a weight",
            gain(&problem(&outliers, &apart), &few),
        ),
        (
            "large inputs, rounded",
            gain(&problem(&even, &large), &rows),
        ),
        ("neither", gain(&problem(&even, &apart), &few)),
    ];
    let [(_, weight), (_, inputs), (_, neither)] = gains;
    assert!(weight > 2.0, "{gains:?}");
    assert!(inputs > 3.0, "{gains:?}");
    // A uniform weight has no tails; a rotated one has a normal one's.
    assert!(neither < 1.1, "{gains:?}");
}

/// What the op makes of each row.
fn rotate(x: &Matrix) -> Matrix {
    let data = x.data.iter().map(|x| f64::from(*x)).collect();
    let tensor = Tensor::new([x.rows, x.columns], data);
    let rotated = ops::Hadamard { block: 64 }.eval(&[tensor], &[x.rows, x.columns]);
    let data = rotated.unwrap().data.into_iter().map(|x| x as f32);
    Matrix::new(x.rows, x.columns, data.collect())
}

/// Rows rounded to 8 bits.
fn rounded(x: &Matrix, group: i64) -> Matrix {
    let op = ops::FakeQuantize {
        element: Element::Q8,
        group,
        scale: ir::DType::F32,
    };
    let data = x.data.iter().map(|x| f64::from(*x)).collect();
    let tensor = Tensor::new([x.rows, x.columns], data);
    let out = op.eval(&[tensor], &[x.rows, x.columns]).unwrap();
    let data = out.data.into_iter().map(|x| x as f32);
    Matrix::new(x.rows, x.columns, data.collect())
}

#[test]
fn errors_are_those_of_outputs() {
    // Several large ones a block, at places without a pattern: rotated inputs are about normal, as errors of rounding are told.
    let large = |i: usize| i.pow(2) % 11 == 3;
    let (weight, inputs) = (outliers(), large_inputs(10.0, large));
    let moments = Moments::of(&inputs);
    let problem = problem(&weight, &moments);
    let wanted = inputs.times(&weight.transposed());
    let four = Form::grouped(Element::Q4, 32);
    let eight = Form::Dynamic(Box::new(Form::grouped(Element::Q8, 32)));
    for (form, tolerance) in [(four, 1e-3), (eight, 0.25)] {
        let form = form.rotated(64);
        let encoded = Rotated.encode(&problem, &form).unwrap();
        let Encoded::Rotated { weight: inner, .. } = &encoded else {
            panic!("{form}: {encoded:?}");
        };
        let mut rows = rotate(&inputs);
        if let Encoded::Dynamic(integers) = &**inner {
            rows = rounded(&rows, integers.group as i64);
        }
        let outputs = rows.times(&inner.decode(&weight).transposed());
        let squares = outputs
            .minus(&wanted)
            .data
            .into_iter()
            .map(|d| f64::from(d * d));
        let found = squares.sum::<f64>() / inputs.rows as f64;
        let said = problem.error_of(&encoded);
        assert!(
            (said / found - 1.0).abs() < tolerance,
            "{form}: {said}, outputs differ by {found}"
        );
        // And as a weight of inputs that are not rotated.
        let whole = encoded.decode(&weight);
        let same = rotate(&inner.decode(&weight));
        let most = whole
            .minus(&same)
            .data
            .iter()
            .fold(0.0, |m: f32, x| m.max(x.abs()));
        assert!(most < 1e-5, "{form}: {most}");
    }
}

#[test]
fn inputs_that_no_block_divides_are_not_rotated() {
    let check = |k: usize, block: Option<u32>| {
        let forms = Rotated.forms([8, k], ir::DType::F32);
        let blocks = forms.iter().map(|form| match form {
            Form::Rotated { block, .. } => *block,
            other => panic!("{other}"),
        });
        let blocks: Vec<u32> = blocks.collect();
        assert!(blocks.iter().all(|b| Some(*b) == block), "{k}: {blocks:?}");
        assert_eq!(blocks.is_empty(), block.is_none(), "{k}");
    };
    check(40, None);
    check(96, Some(32));
    check(192, Some(64));
    check(1024, Some(64));
    check(0, None);
    let (weight, moments) = (random(8, 64, 1), moments(64, 128, 2));
    let form = Form::grouped(Element::Q4, 32).rotated(32);
    let refused = Rotated
        .encode(&problem(&weight, &moments), &form)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "method rotated does not give q4/32 rotated by 32"
    );
}
