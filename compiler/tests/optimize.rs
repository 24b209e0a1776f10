//! The optimizer on whole models: what comes out is in normal form, equal to what went in, small, and the same each
//! time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{
    checkpoint::Checkpoint,
    models,
    optimize::{self, Options, Stop},
};
use ir::{Class, Graph, Node, Op, OpKind, Program, Role, Value};
use std::path::Path;

const FIXTURES: &[&str] = &[
    "bert_mlm",
    "bert_model",
    "bert_seqcls",
    "bert_tokcls",
    "llama_gqa",
    "llama_tied_llama3",
];

fn program(fixture: &str) -> Program {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let checkpoint = Checkpoint::open(&fixtures.join(fixture)).unwrap();
    models::build(checkpoint.config(), &checkpoint).unwrap().0
}

fn decode() -> Options {
    Options::at([("T", 1), ("L", 1), ("R", 512)])
}

fn encode() -> Options {
    Options::at([("T", 128), ("B", 1)])
}

/// Values known at compile time.
fn constant(g: &Graph) -> Vec<bool> {
    let mut known = vec![false; g.len()];
    for v in g.values() {
        known[v.index()] = match g.node(v) {
            Node::Input { role, .. } => *role == Role::Weight,
            Node::Op { op, args } => {
                !op.kind().binds()
                    && op.kind() != OpKind::Acc
                    && args.iter().all(|a| known[a.index()])
            }
        };
    }
    known
}

/// Panics unless the graph is in normal form.
fn assert_normal(g: &Graph) {
    let (constant, open) = (constant(g), g.open());
    for v in g.cone(&g.outputs) {
        let Some(op) = g.op(v) else { continue };
        if constant[v.index()] {
            continue;
        }
        let args = g.args(v);
        if open[v.index()] {
            let kind = op.kind();
            let fusable = matches!(kind.class(), Class::Elementwise | Class::Rowwise);
            assert!(fusable || kind == OpKind::Acc, "{op:?} in a body\n{g}");
            continue;
        }
        match op {
            Op::Map(_) | Op::Attention(_) | Op::Reshape(_) => {}
            Op::Slice(s) => assert_eq!(s.axis as usize + 1, g.ty(v).shape.len(), "{g}"),
            Op::Gemm(_) => {
                let weights = &args[1..args.len() - 1];
                assert!(weights.iter().all(|w| constant[w.index()]), "{g}");
                for b in body(g, args[args.len() - 1]) {
                    let kind = g.op(b).unwrap().kind();
                    assert!(
                        kind == OpKind::Acc || kind.class() == Class::Elementwise,
                        "{kind:?} in a gemm's body\n{g}"
                    );
                }
            }
            _ => panic!("{op:?} is no kernel\n{g}"),
        }
    }
}

/// Open values of a kernel's body, without the bodies of the kernels that it reads.
fn body(g: &Graph, root: Value) -> Vec<Value> {
    let open = g.open();
    let (mut found, mut todo) = (vec![], vec![root]);
    while let Some(v) = todo.pop() {
        if open[v.index()] && !found.contains(&v) {
            found.push(v);
            todo.extend(g.args(v));
        }
    }
    found
}

fn kernels(g: &Graph) -> usize {
    let kinds = g
        .cone(&g.outputs)
        .into_iter()
        .filter_map(|v| g.op(v))
        .map(Op::kind);
    kinds
        .filter(|k| matches!(k, OpKind::Map | OpKind::Gemm | OpKind::Attention))
        .count()
}

#[test]
fn every_model_becomes_few_kernels() {
    for name in FIXTURES {
        let p = program(name);
        let options = if name.starts_with("llama") {
            decode()
        } else {
            encode()
        };
        let (better, reports) = optimize::program(&p, &options).unwrap();
        for (graph, g) in &better.graphs {
            assert_normal(g);
            let r = &reports[graph];
            if std::env::var("SHOW").is_ok() {
                println!(
                    "{g}\n{name} {graph}: {} kernels {} nodes {} rounds {} -> {}",
                    kernels(g),
                    r.nodes,
                    r.iterations,
                    r.before,
                    r.after
                );
            }
            assert_eq!(r.stop, Stop::Saturated, "{name}: {graph}");
            assert!(r.after <= r.before, "{name}: {graph}");
            let most = match (&**graph, name.starts_with("llama")) {
                ("layer", true) => 10,
                ("layer", false) => 7,
                _ => 4,
            };
            assert!(
                kernels(g) <= most,
                "{name}: {graph} takes {} kernels\n{g}",
                kernels(g)
            );
        }
    }
}
