//! Compression methods against references that numpy computed (make.py), on planted structure, and at their edges.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod applied;
mod edges;
mod rotated;
mod sampled;

use compiler::compress::{
    Alternative, Form, Matrix, Method, Moments, Problem, Sample,
    clip::Clip,
    gptq::{Feedback, Gptq},
    low_rank::{self, Svd},
    nearest::{self, Nearest},
};
use ir::{DType, Element};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;

/// The reference's problem and results.
struct Fixture {
    file: Vec<u8>,
}

impl Fixture {
    fn open() -> Fixture {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/compress/problem.safetensors"
        );
        Fixture {
            file: std::fs::read(path).unwrap(),
        }
    }

    fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.file).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name).1;
        let numbers = bytes.as_chunks().0.iter();
        numbers.map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        let bytes = self.bytes(name).1;
        let numbers = bytes.as_chunks().0.iter();
        numbers.map(|b| f64::from_le_bytes(*b)).collect()
    }

    fn matrix(&self, name: &str) -> Matrix {
        let shape = self.bytes(name).0;
        Matrix::new(shape[0], shape[1], self.f32(name))
    }

    fn moments(&self) -> Moments {
        Moments::new(
            400,
            self.matrix("second"),
            self.f32("mean"),
            self.f32("max"),
        )
    }
}

fn problem<'a>(weight: &'a Matrix, moments: &'a Moments) -> Problem<'a> {
    Problem::new(weight, DType::F32, moments)
}

/// A matrix of numbers in -1..1.
fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let data = (0..rows * columns).map(|_| rng.random_range(-1.0f32..1.0));
    Matrix::new(rows, columns, data.collect())
}

/// Moments of so many correlated inputs.
fn moments(k: usize, tokens: usize, seed: u64) -> Moments {
    let mut mix = random(k, k, seed + 1);
    for (i, row) in mix.data.chunks_mut(k).enumerate() {
        row[i] += 4.0;
    }
    Moments::of(&random(tokens, k, seed).times(&mix))
}

fn close(what: &str, got: f64, wanted: f64, tolerance: f64) {
    assert!(
        (got - wanted).abs() <= tolerance * wanted.abs().max(1e-12),
        "{what}: {got}, the reference has {wanted}"
    );
}

fn error_of(alternatives: &[Alternative], form: &Form) -> f64 {
    let found = alternatives.iter().find(|a| a.form == *form);
    found
        .unwrap_or_else(|| panic!("{form} is not offered"))
        .error
}

#[test]
fn rounding_and_feedback_equal_the_reference() {
    let fixture = Fixture::open();
    let (weight, moments) = (fixture.matrix("weight"), fixture.moments());
    let problem = problem(&weight, &moments);
    let sample = Sample::of(&problem).unwrap();
    for (bits, element) in [(8, Element::Q8), (4, Element::Q4)] {
        let form = Form::grouped(element, 32);
        let nearest = Nearest.alternatives(&sample).unwrap();
        let wanted = fixture.f64(&format!("nearest.error.{bits}"))[0];
        close("nearest", error_of(&nearest, &form), wanted, 1e-4);

        let grid = nearest::round(&weight, element, 32);
        let found = Feedback::of(moments.second().unwrap())
            .unwrap()
            .round(&weight, grid);
        let scales = fixture.bytes(&format!("gptq.{bits}.scales")).1;
        let own: Vec<u8> = found.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        assert_eq!(own, scales, "scales of {form}");
        // A code beside a tie may differ, and those after it in its row.
        let codes = fixture.bytes(&format!("gptq.{bits}.codes")).1;
        let pairs = found.codes.iter().zip(&codes);
        let differ = pairs.filter(|(a, b)| **a as u8 != **b).count();
        assert!(
            differ * 100 <= codes.len(),
            "{differ} codes of {} differ in {form}",
            codes.len()
        );
        let wanted = fixture.f64(&format!("gptq.error.{bits}"))[0];
        close("gptq", problem.error(&found.decode()), wanted, 0.01);
        let gptq = Gptq.alternatives(&sample).unwrap();
        assert!(error_of(&gptq, &form) < 0.5 * error_of(&nearest, &form));
        if bits == 4 {
            let clip = Clip.alternatives(&sample).unwrap();
            assert!(error_of(&clip, &form) < error_of(&nearest, &form));
            assert!(error_of(&gptq, &form) < wanted, "clipped scales help");
        }
    }
}

#[test]
fn ranks_have_the_errors_of_whitened_singular_values() {
    let fixture = Fixture::open();
    let (weight, moments) = (fixture.matrix("weight"), fixture.moments());
    let fisher = fixture.f32("fisher");
    for (curve, fisher) in [("svd.curve", None), ("svd.fisher_curve", Some(&fisher[..]))] {
        let problem = Problem {
            fisher,
            ..problem(&weight, &moments)
        };
        let wanted = fixture.f64(curve);
        let left = low_rank::curve(&problem).unwrap();
        assert_eq!(left.len(), wanted.len());
        let whole = wanted[0];
        for (rank, (left, wanted)) in left.iter().zip(&wanted).enumerate() {
            let what = format!("{curve} at rank {rank}");
            let tolerance = 1e-5 * whole;
            assert!(
                (left - wanted).abs() < tolerance,
                "{what}: {left} for {wanted}"
            );
        }
        // What the curve promises is what the factors give.
        let form = Form::product(16, Form::Float(DType::F32));
        let product = Svd.encode(&problem, &form).unwrap();
        let error = problem.error(&product.decode(&weight));
        assert!((error - wanted[16]).abs() < 1e-5 * whole, "{error}");
    }
}

#[test]
fn planted_ranks_are_found() {
    for (n, k, rank) in [(192, 128, 32), (128, 256, 64), (160, 160, 32)] {
        let mut weight = random(n, rank, 3).times(&random(rank, k, 4));
        let noise = random(n, k, 5);
        for (w, noise) in weight.data.iter_mut().zip(&noise.data) {
            *w += 0.003 * noise;
        }
        let moments = moments(k, 2 * k, 6);
        let problem = problem(&weight, &moments);
        let sample = Sample::of(&problem).unwrap();
        let curve = low_rank::curve(&problem).unwrap();
        let what = format!("rank {rank} in {n} x {k}");
        assert!(curve[rank] < 1e-5 * curve[0], "{what}: {}", curve[rank]);
        assert!(curve[rank - 1] > 2.0 * curve[rank], "{what}");
        let offered = Svd.alternatives(&sample).unwrap();
        let form = Form::product(rank as u32, Form::integers(8, 32));
        let whole = Nearest.alternatives(&sample).unwrap();
        let dense = whole
            .iter()
            .find(|a| a.form == Form::integers(4, 32))
            .unwrap();
        let found = offered.iter().find(|a| a.form == form).unwrap();
        assert!(
            found.bytes < 2 * dense.bytes && found.error < dense.error,
            "{what}"
        );
        for a in &offered {
            assert!(
                a.bytes < Form::Stored.bytes(problem.shape(), DType::F32),
                "{what}: {a:?}"
            );
        }
    }
}
