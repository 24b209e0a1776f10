//! How long choosing takes for a decoder of many layers whose statistics are given: what every method offers of every weight,
//! and the knapsack over all: `cargo run --release -p satura-compiler --example optimize -- HIDDEN INNER LAYERS`. Weights and
//! inputs are random, each layer's its own; making them is not timed. Times of products are the roofline's.

mod random;

use compiler::{
    compress::{Alternative, CompressError, Form, Inputs, METHODS, Matrix, Moments, Sample},
    optimize::cost::{CostModel, Roofline},
    plan::knapsack::{Cost, Side, pareto, solve},
};
use ir::{DType, artifact::Work};
use random::random;
use rayon::prelude::*;
use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What parts of the work took.
static TIMES: Mutex<BTreeMap<&str, Duration>> = Mutex::new(BTreeMap::new());
/// Tokens of the inputs that statistics are made of.
const TOKENS: usize = 3072;

/// Of correlated inputs, some of them large: as they are read from statistics, the moments of parts.
fn inputs(k: usize, seed: u64) -> Inputs {
    let thin = random(TOKENS, 64, seed + 1).times(&random(64, k, seed + 2));
    let own = random(TOKENS, k, seed);
    let at = |i: usize, j: usize| {
        let large = if j.is_multiple_of(97) { 8.0 } else { 1.0 };
        (own.row(i)[j] + 0.3 * thin.row(i)[j]) * large
    };
    let columns =
        |columns: &[usize]| Matrix::from_fn(TOKENS, columns.len(), |i, j| at(i, columns[j]));
    let parts = Inputs::parts(k);
    let moments = parts
        .iter()
        .map(|part| Arc::new(Moments::of(&columns(part))));
    let (mut squares, mut mean, mut max) = (vec![0.0; k], vec![0.0; k], vec![0.0f32; k]);
    for i in 0..TOKENS {
        for j in 0..k {
            let x = at(i, j);
            squares[j] += x * x / TOKENS as f32;
            mean[j] += x / TOKENS as f32;
            max[j] = max[j].max(x.abs());
        }
    }
    Inputs::new(
        Moments::alone(TOKENS as u64, squares, mean, max),
        moments.collect(),
    )
}

/// Time since a start, over all threads.
fn add(what: &'static str, start: Instant) {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    *times.entry(what).or_default() += start.elapsed();
}

/// What all methods offer of a weight.
fn offers(
    shape: [usize; 2],
    inputs: &Arc<Inputs>,
    tall: &Matrix,
) -> Result<Vec<Alternative>, CompressError> {
    let start = Instant::now();
    let sample = Sample::new(shape, DType::BF16, Arc::clone(inputs), tall)?;
    assert!(
        !sample.wants_whole(),
        "a random weight has no few directions"
    );
    add("sample", start);
    let mut out = vec![sample.alternative("stored", Form::Stored, 0.0)];
    for method in METHODS {
        let start = Instant::now();
        out.extend(method.alternatives(&sample)?);
        add(method.name(), start);
    }
    Ok(out)
}

/// The knapsack's options of a weight.
fn options(offers: &[Alternative]) -> Vec<Cost> {
    let costs = offers.iter().map(|a| {
        let work = Work {
            weights: a.bytes,
            ..Work::default()
        };
        Cost {
            time: Roofline::default().kernel(&work) as f64 * 1e-12,
            bytes: a.bytes as f64,
            error: a.error,
        }
    });
    let costs: Vec<Cost> = costs.collect();
    pareto(&costs).into_iter().map(|i| costs[i]).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let sizes: Vec<usize> = std::env::args().skip(1).flat_map(|a| a.parse()).collect();
    let [hidden, inner, layers] = sizes[..] else {
        return Err("usage: optimize HIDDEN INNER LAYERS".into());
    };
    // Weights of the same inputs.
    let blocks: [&[[usize; 2]]; 4] = [
        &[[hidden, hidden]; 3],
        &[[hidden, hidden]],
        &[[inner, hidden]; 2],
        &[[hidden, inner]],
    ];
    let (mut costs, mut choosing, mut offered) = (vec![], Duration::ZERO, 0);
    for layer in 0..layers as u64 {
        let (mut sites, mut shared) = (vec![], vec![]);
        for (i, shapes) in blocks.iter().enumerate() {
            let seed = 100 * (layer * 4 + i as u64);
            let inputs = Arc::new(inputs(shapes[0][1], seed));
            for (s, [n, k]) in shapes.iter().copied().enumerate() {
                let weight = random(Sample::rows(n).len(), k, seed + 3 + s as u64);
                sites.push(([n, k], Arc::clone(&inputs), weight));
            }
            shared.push(inputs);
        }
        let start = Instant::now();
        shared.par_iter().for_each(|inputs| inputs.prepare());
        add("prepare", start);
        let found = sites.par_iter().with_max_len(1);
        let found = found.map(|(shape, inputs, tall)| offers(*shape, inputs, tall));
        for offers in found.collect::<Result<Vec<_>, _>>()? {
            offered += offers.len();
            costs.push(options(&offers));
        }
        choosing += start.elapsed();
        println!("layer {layer}: {choosing:.2?} so far");
    }
    let start = Instant::now();
    let most: f64 = costs.iter().flat_map(|c| c.iter().map(|c| c.error)).sum();
    let found = solve(&costs, Side::Error, most / 100.0, Side::Time);
    choosing += start.elapsed();
    println!(
        "{offered} alternatives of {} weights, the knapsack in {:.2?} ({}): {choosing:.2?}",
        costs.len(),
        start.elapsed(),
        if found.is_some() {
            "solved"
        } else {
            "no choice"
        },
    );
    for (what, time) in TIMES.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{what}: {time:.2?}");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|l| l.starts_with("VmHWM"));
    println!("{}", peak.unwrap_or("peak memory unknown"));
    Ok(())
}
