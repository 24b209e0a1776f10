//! The IR at each stage, under insta: of every example graph in `tests/ir`, and what every fixture is optimized to, with
//! its kernels; what it is built as is under the compiler's own tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{
    Compilation, Options, backends, checkpoint::Checkpoint, explain::Explained, optimize, schedule,
};
use ir::Graph;
use std::{fmt::Write, path::PathBuf};

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn check(input: &str, stage: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("{input}@{stage}"), text));
}

/// Entries of a directory under `tests`, sorted by name, without extensions.
fn inputs(dir: &str) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = std::fs::read_dir(root().join("tests").join(dir))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_stem().unwrap().to_string_lossy().into_owned(),
                path,
            )
        })
        .collect();
    found.sort();
    found
}

#[test]
fn fixtures() {
    let options = Options::new("x86-64-v3".parse().unwrap());
    let models = inputs("fixtures")
        .into_iter()
        .filter(|(_, path)| path.is_dir());
    for (name, path) in models {
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let compiled = Compilation::new(&checkpoint, &options, &|_, _, _| {})
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        check(&name, "optimized", &compiled.optimized.to_string());
        let mut scheduled = String::new();
        for graph in compiled.optimized.graphs.keys() {
            writeln!(scheduled, "{graph}\n{}\n", compiled.schedules[graph]).unwrap();
        }
        check(&name, "scheduled", &scheduled);
        if EXPLAINED.contains(&&*name) {
            let built = compiled.built.graphs["layer"].clone();
            let sizes = optimize::Options::at([("T", 2), ("L", 1), ("B", 1), ("R", 64)]);
            check(&name, "explained", &explained("layer", built, &sizes));
        }
    }
}

/// Inputs whose derivations are recorded: a layer of ops, one of primitives.
const EXPLAINED: &[&str] = &["llama_gqa", "decoder_attention"];

fn explained(name: &str, built: Graph, options: &optimize::Options) -> String {
    let explanation = optimize::explain(&built, options).unwrap();
    let explained = Explained {
        name: name.into(),
        built,
        explanation: explanation.unwrap_or_else(|| panic!("{name} is not proved")),
    };
    explained.to_string()
}

#[test]
fn examples() {
    for (name, path) in inputs("ir") {
        let text = std::fs::read_to_string(&path).unwrap();
        let built: Graph = text.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
        let order = backends::order(&"x86-64-v3".parse().unwrap());
        let options = optimize::Options::at([("T", 8), ("L", 2), ("B", 1), ("R", 64)]);
        check(&name, "built", &built.to_string());
        match optimize::graph(&built, &options) {
            Ok((optimized, _)) => {
                check(&name, "optimized", &optimized.to_string());
                if EXPLAINED.contains(&&*name) {
                    check(&name, "explained", &explained(&name, built, &options));
                }
                let scheduled =
                    schedule::graph(&optimized, order).unwrap_or_else(|e| panic!("{name}: {e}"));
                check(&name, "scheduled", &scheduled.to_string());
            }
            Err(e) => panic!("{name}: {e}"),
        }
    }
}
