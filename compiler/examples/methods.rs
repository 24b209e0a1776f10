//! What each compression method offers for a random weight, and how long that takes: `cargo run --release --example methods -- N K`.
//! Inputs are correlated, and some are large.

mod random;

use compiler::compress::{METHODS, Matrix, Moments, Problem, Sample};
use ir::DType;
use random::random;
use std::time::Instant;

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).flat_map(|a| a.parse()).collect();
    let [n, k] = sizes[..] else {
        eprintln!("usage: methods N K");
        std::process::exit(2);
    };
    let weight = random(n, k, 1);
    let thin = random(2 * k, 64, 2).times(&random(64, k, 3));
    let mut inputs = random(2 * k, k, 4);
    for (i, (x, t)) in inputs.data.iter_mut().zip(&thin.data).enumerate() {
        let large = if i % k % 97 == 0 { 8.0 } else { 1.0 };
        *x = (*x + 0.3 * t) * large;
    }
    let start = Instant::now();
    let moments = Moments::of(&inputs);
    println!("moments of {} tokens: {:.2?}", inputs.rows, start.elapsed());
    let problem = Problem::new(&weight, DType::BF16, &moments);
    let nothing = problem.error(&Matrix::zeros(n, k));
    let start = Instant::now();
    let sample = match Sample::of(&problem) {
        Ok(sample) => sample,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1);
        }
    };
    println!("a sample: {:.2?}", start.elapsed());
    for method in METHODS {
        let start = Instant::now();
        let offered = method.alternatives(&sample);
        println!("{}: {:.2?}", method.name(), start.elapsed());
        match offered {
            Err(e) => println!("  {e}"),
            Ok(offered) => {
                for a in offered {
                    let bits = a.bytes as f64 * 8.0 / (n * k) as f64;
                    println!(
                        "  {:>5.2} bits  {:.2e}  {}",
                        bits,
                        a.error / nothing,
                        a.form
                    );
                }
            }
        }
    }
}
