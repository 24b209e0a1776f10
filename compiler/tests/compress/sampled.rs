//! Errors that are told from a sample of a weight are about those of the whole.

use super::{problem, random};
use compiler::compress::{
    Form, Matrix, Method, Moments, Problem, Sample, clip::Clip, gptq::Gptq, nearest::Nearest,
    residual::Residual,
};
use ir::Element;

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

/// Errors told from a sample and errors of the whole, relative to those of rounding to 4 bits, which is what is measured of a
/// model: no form's differ by more than `most`, of those that methods say row by row and that lose more than a hundredth of that.
fn check(problem: &Problem, most: f64) {
    let sample = Sample::of(problem).unwrap();
    let unit = Form::integers(4, 32);
    let whole = |m: &dyn Method, form: &Form| problem.error_of(&m.encode(problem, form).unwrap());
    let told = sample.error(&Nearest, &unit).unwrap() / whole(&Nearest, &unit);
    assert!((0.8..1.25).contains(&told), "by themselves: {told}");
    let forms = [
        Form::integers(4, 64),
        Form::integers(3, 32),
        Form::grouped(Element::U4, 32),
    ];
    let methods: [&dyn Method; 3] = [&Nearest, &Clip, &Gptq];
    for (method, form) in methods
        .iter()
        .flat_map(|m| forms.iter().map(move |f| (m, f)))
    {
        let error = sample.error(*method, form).unwrap() / told;
        let off = error / whole(*method, form) - 1.0;
        assert!(off.abs() <= most, "{} {form}: off by {off}", method.name());
        assert!(off != 0.0, "{form}: not told from a sample");
    }
}

#[test]
fn errors_of_many_rows_are_told_from_some() {
    let (weight, moments) = (weight(1400, 256), inputs(256, 1024));
    check(&problem(&weight, &moments), 0.05);
}

#[test]
fn errors_of_many_inputs_are_told_from_parts_of_them() {
    let (weight, moments) = (weight(160, 3072), inputs(3072, 4096));
    // Of 128 rows whose sizes differ so, sums have a standard error of 5 %; part of it is in the unit, too.
    check(&problem(&weight, &moments), 0.08);
}

/// A correction of a large weight promises no more than it gives, beside what is the base's, and not much less.
#[test]
fn what_corrections_give_back_is_told_from_a_sample() {
    let (weight, moments) = (weight(1408, 3072), inputs(3072, 4096));
    let problem = problem(&weight, &moments);
    let sample = Sample::of(&problem).unwrap();
    let offered = Residual.alternatives(&sample).unwrap();
    assert_eq!(offered.len(), 3);
    let whole = |method: &dyn Method, form: &Form| {
        let base = Form::integers(4, 128);
        let error = |m: &dyn Method, f: &Form| problem.error_of(&m.encode(&problem, f).unwrap());
        error(method, form) / error(&Gptq, &base)
    };
    let base = sample.error(&Gptq, &Form::integers(4, 128)).unwrap();
    for a in offered.iter().step_by(2) {
        let (told, left) = (a.error / base, whole(&Residual, &a.form));
        assert!(
            (left..1.3 * left).contains(&told),
            "{}: {told}, is {left}",
            a.form
        );
    }
}

/// A weight with few directions is looked at whole, one without is not, but at ranks that save little.
#[test]
fn low_rank_is_looked_for_where_it_may_be() {
    let moments = inputs(1024, 2048);
    let (full, even) = (random(1024, 1024, 3), Moments::of(&random(4096, 1024, 15)));
    let sample = Sample::of(&problem(&full, &even)).unwrap();
    // Not at ranks at which factors of 8 bits would be smaller than the whole in 4.
    assert!(
        sample.ranks().iter().all(|r| *r > 256),
        "{:?}",
        sample.ranks()
    );
    for rank in [96, 256] {
        let few = random(1024, rank, 4).times(&random(rank, 1024, 5));
        let sample = Sample::of(&problem(&few, &moments)).unwrap();
        assert!(
            sample.ranks().contains(&rank),
            "{rank}: {:?}",
            sample.ranks()
        );
    }
}
