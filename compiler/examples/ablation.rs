//! What each rewrite rule is worth, by the optimizer's own prediction: every theme and every rule that fired is left out
//! alone, and the model is optimized again. `bench/ablation.py` measures themes instead.
//!
//!     cargo run --release -p satura-compiler --example ablation -- [--rules] tests/fixtures/*/

use compiler::{
    Compilation, Options,
    checkpoint::Checkpoint,
    optimize::{
        ablation::{Ablation, themes},
        rules::{self, KERNELS},
    },
};
use ir::{OpKind, Target};
use std::{collections::BTreeMap, error::Error};

/// A model's kernels, predicted picoseconds and rules that fired; all calls counted.
struct Found {
    kernels: usize,
    time: u64,
    fired: Vec<String>,
}

fn optimize(checkpoint: &Checkpoint, without: &str) -> Result<Found, Box<dyn Error>> {
    let mut options = Options::new("x86-64-v3".parse::<Target>()?);
    if !without.is_empty() {
        options.without = without.parse::<Ablation>()?;
    }
    let done = Compilation::new(checkpoint, &options, &|_, _, _| {})?;
    let mut found = Found {
        kernels: 0,
        time: 0,
        fired: vec![],
    };
    for call in &done.optimized.calls {
        let g = &done.optimized.graphs[&call.graph];
        let kinds = g.cone(&g.outputs).into_iter().filter_map(|v| g.op(v));
        let kernel = |k: OpKind| matches!(k, OpKind::Map | OpKind::Gemm | OpKind::Attention);
        found.kernels += kinds.filter(|op| kernel(op.kind())).count();
        found.time += done.reports[&call.graph].after;
    }
    for report in done.reports.values() {
        let fired = report.fired.iter().filter(|(_, times)| **times > 0);
        found.fired.extend(fired.map(|(rule, _)| rule.clone()));
    }
    found.fired.sort_unstable();
    found.fired.dedup();
    Ok(found)
}

/// What leaving something out does to the models where it fired.
#[derive(Default)]
struct Worth {
    fired: usize,
    /// Models that it makes slower, by parts in a hundred, and kernels that they then have more.
    slower: Vec<(f64, i64, String)>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut folders: Vec<String> = std::env::args().skip(1).collect();
    let each = folders.first().is_some_and(|a| a == "--rules");
    if each {
        folders.remove(0);
    }
    let rules = rules::all();
    let mut worth: BTreeMap<(&str, &str), Worth> = BTreeMap::new();
    for theme in themes() {
        worth.insert((theme, ""), Worth::default());
    }
    for rule in rules.iter().filter(|_| each) {
        worth.insert((rule.theme, &rule.name), Worth::default());
    }
    for folder in &folders {
        let checkpoint = Checkpoint::open(folder.as_ref())?;
        let whole = optimize(&checkpoint, "")?;
        eprintln!(
            "{folder}: {} kernels, {:.1} us",
            whole.kernels,
            whole.time as f64 / 1e6
        );
        let of = |theme: &str| {
            let mut of = rules.iter().filter(|r| r.theme == theme);
            of.any(|r| whole.fired.contains(&r.name))
        };
        for ((theme, rule), worth) in &mut worth {
            let fired = match *rule {
                "" => of(theme),
                rule => whole.fired.iter().any(|f| f == rule),
            };
            // Nothing is a kernel of itself without the rule that says so.
            if !fired || *theme == KERNELS {
                worth.fired += usize::from(fired);
                continue;
            }
            worth.fired += 1;
            let name = if rule.is_empty() { theme } else { rule };
            match optimize(&checkpoint, name) {
                Ok(without) => {
                    let more = without.kernels as i64 - whole.kernels as i64;
                    let slower = 100.0 * (without.time as f64 / whole.time as f64 - 1.0);
                    if without.time != whole.time || more != 0 {
                        worth.slower.push((slower, more, folder.clone()));
                    }
                }
                Err(error) => eprintln!("{folder} without {name}: {error}"),
            }
        }
    }
    for ((theme, rule), mut worth) in worth {
        worth.slower.sort_by(|a, b| b.0.total_cmp(&a.0));
        let most = worth.slower.first();
        let most = most.map_or(String::new(), |(slower, more, folder)| {
            format!("; most {folder}: {slower:+.1} %, {more:+} kernels")
        });
        println!(
            "{theme:10} {rule:32} fired in {:3}, missed in {:3}{most}",
            worth.fired,
            worth.slower.len()
        );
    }
    Ok(())
}
