//! What users' models hold that textbooks do not: each edge has a clear outcome.

use super::{moments, problem, random};
use compiler::compress::{
    CompressError, Encoded, Form, METHODS, Matrix, Method, Moments, Problem, Sample, clip::Clip,
    gptq::Gptq, low_rank::Svd, nearest::Nearest,
};

/// Every form of every method: finite, and as the form says. What is offered of them has the error that it says.
fn check(what: &str, problem: &Problem) {
    problem.check().unwrap_or_else(|e| panic!("{what}: {e}"));
    let sample = Sample::of(problem).unwrap();
    sample.check().unwrap();
    for method in METHODS {
        let offered = method.alternatives(&sample);
        let offered = offered.unwrap_or_else(|e| panic!("{what}, {}: {e}", method.name()));
        let forms = method.forms(problem.shape(), problem.stored);
        for a in &offered {
            assert_eq!(a.method, method.name(), "{what}");
            assert!(forms.contains(&a.form), "{what}: {}", a.form);
            let bytes = a.form.bytes(problem.shape(), problem.stored);
            assert_eq!(bytes, a.bytes, "{what}");
        }
        for form in forms {
            let what = format!("{what}, {} {form}", method.name());
            let encoded = method.encode(problem, &form).unwrap();
            assert_eq!(encoded.form(), form, "{what}");
            let decoded = encoded.decode(problem.weight);
            let again = method.encode(problem, &form).unwrap();
            assert_eq!(again.decode(problem.weight).data, decoded.data, "{what}");
            assert!(decoded.data.iter().all(|x| x.is_finite()), "{what}");
            let error = problem.error_of(&encoded);
            assert!(error >= 0.0 && error.is_finite(), "{what}: {error}");
            if let Some(a) = offered.iter().find(|a| a.form == form) {
                // What rounding adds to factors is told as if inputs did not go together.
                let most = match form {
                    Form::Product { .. } => 0.2,
                    _ => 0.02,
                };
                let near = (a.error - error).abs() <= most * error + 1e-12;
                assert!(near, "{what}: {error}, offered as {}", a.error);
            }
        }
    }
}

#[test]
fn fewer_tokens_than_inputs() {
    let weight = random(96, 128, 1);
    let moments = moments(128, 10, 2);
    let problem = problem(&weight, &moments);
    check("10 tokens, 128 inputs", &problem);
    let error = |m: &dyn Method| {
        let encoded = m.encode(&problem, &Form::integers(4, 32)).unwrap();
        problem.error(&encoded.decode(&weight))
    };
    assert!(error(&Gptq) < 0.2 * error(&Nearest));
}

#[test]
fn inputs_that_are_always_zero() {
    let weight = random(40, 64, 1);
    let mut inputs = random(300, 64, 2);
    for row in inputs.data.chunks_mut(64) {
        row[5] = 0.0;
        row[63] = 0.0;
    }
    let some = Moments::of(&inputs);
    check("two dead inputs", &problem(&weight, &some));
    // Their weights are rounded as they are: no other's error goes there, as another text may need them.
    let form = Form::integers(8, 32);
    let decoded = |m: &dyn Method| {
        m.encode(&problem(&weight, &some), &form)
            .unwrap()
            .decode(&weight)
    };
    let (gptq, clip) = (decoded(&Gptq), decoded(&Clip));
    for row in 0..40 {
        assert_eq!(gptq.row(row)[5], clip.row(row)[5]);
        assert_eq!(gptq.row(row)[63], clip.row(row)[63]);
    }
    let none = Moments::of(&Matrix::zeros(300, 64));
    check("dead inputs alone", &problem(&weight, &none));
}

#[test]
fn weights_of_one_value() {
    let moments = moments(64, 200, 2);
    for value in [0.0, 0.25, -3e-9] {
        let weight = Matrix::new(32, 64, vec![value; 32 * 64]);
        check(&format!("weights of {value}"), &problem(&weight, &moments));
    }
}

#[test]
fn inputs_that_no_group_divides_are_not_grouped() {
    let weight = random(64, 40, 1);
    let moments = moments(40, 200, 2);
    let problem = problem(&weight, &moments);
    check("40 inputs", &problem);
    assert!(Gptq.forms(problem.shape(), problem.stored).is_empty());
    let refused = Nearest
        .encode(&problem, &Form::integers(8, 32))
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "groups of size 32 do not fit a weight that has 40"
    );
    // Thin factors are, where they are no integers.
    let weight = random(400, 32, 3).times(&random(32, 200, 4));
    let moments = super::moments(200, 400, 5);
    let problem = super::problem(&weight, &moments);
    check("200 inputs, 32 directions", &problem);
    assert!(
        !Svd.alternatives(&Sample::of(&problem).unwrap())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_is_no_number_is_refused_by_name() {
    let (weight, moments) = (random(32, 64, 1), moments(64, 200, 2));
    let mut broken = weight.clone();
    broken.data[7] = f32::NAN;
    let what = |e: CompressError| e.to_string();
    let refused = what(problem(&broken, &moments).check().unwrap_err());
    assert!(refused.starts_with("the weight hold"), "{refused}");
    let with = |rows: u64, change: &dyn Fn(&mut Matrix)| {
        let mut second = moments.second().unwrap().clone();
        change(&mut second);
        Moments::new(
            rows,
            second,
            moments.mean().to_vec(),
            moments.max().to_vec(),
        )
    };
    let infinite = with(200, &|second| second.data[9] = f32::INFINITY);
    let refused = what(problem(&weight, &infinite).check().unwrap_err());
    assert!(refused.contains("second moments"), "{refused}");
    let nothing = with(0, &|_| {});
    assert_eq!(
        problem(&weight, &nothing).check(),
        Err(CompressError::NoRows)
    );
    let other = random(32, 32, 1);
    let refused = what(problem(&other, &moments).check().unwrap_err());
    assert_eq!(
        refused,
        "moments of size 64 do not fit a weight that has 32"
    );
    let impossible = with(200, &|second| {
        second.data[1] = 1e3;
        second.data[64] = 1e3;
    });
    let form = Form::integers(4, 32);
    let refused = Gptq.encode(&problem(&weight, &impossible), &form);
    assert_eq!(refused, Err::<Encoded, _>(CompressError::Indefinite));
}
