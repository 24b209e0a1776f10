//! Random graphs are well formed, can be evaluated, and mean the same when lowered; so do the example files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ir::{Graph, Op, OpKind, Sym, Tensor, feed, random};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Values of the symbols: `rows` for `T`, fewer for selections, more for states.
fn at(rows: i64) -> impl Fn(&Sym) -> i64 {
    move |s| match &*s.name {
        feed::L => rows.min(3),
        feed::R => rows + 5,
        _ => rows,
    }
}

fn close(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.max_abs_diff(b) < 1e-9)
}

fn eval(graph: &Graph, seed: u64, rows: i64) -> Vec<Tensor> {
    let inputs = random::tensors(graph, seed, &at(rows));
    graph.eval(&inputs, &at(rows)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_graphs_are_well_formed_and_tame(seed: u64, size in 0..30usize, rows in 1..9i64) {
        let graph = random::graph(seed, size);
        prop_assert_eq!(graph.verify(), vec![]);
        for out in eval(&graph, seed, rows) {
            prop_assert!(out.data.iter().all(|x| x.abs() <= 40.0), "{graph}");
        }
    }

    #[test]
    fn lowering_keeps_the_meaning(seed: u64, size in 0..30usize, rows in 1..9i64) {
        let graph = random::graph(seed, size);
        let lowered = graph.lower(|_| false).unwrap();
        for v in lowered.values() {
            if let Some(op) = lowered.op(v) {
                let args = lowered.args(v).to_vec();
                prop_assert!(op.expand(&mut lowered.clone(), &args).is_none(), "{op:?}");
            }
        }
        let kept = graph.lower(|op| matches!(op, Op::Linear(_) | Op::Silu(_))).unwrap();
        prop_assert_eq!(lowered.verify(), vec![]);
        prop_assert_eq!(kept.verify(), vec![]);
        let inputs = random::tensors(&graph, seed, &at(rows));
        let expected = graph.eval(&inputs, &at(rows)).unwrap();
        for other in [lowered, kept] {
            prop_assert!(close(&other.eval(&inputs, &at(rows)).unwrap(), &expected));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_graph_and_another_seed_another() {
    for seed in 0..20 {
        let text = random::graph(seed, 20).to_string();
        assert_eq!(text, random::graph(seed, 20).to_string());
        assert_ne!(text, random::graph(seed + 1, 20).to_string());
    }
}

#[test]
fn random_graphs_cover_the_ops_of_models() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let graph = random::graph(seed, 20);
        seen.extend(
            graph
                .cone(&graph.outputs)
                .iter()
                .filter_map(|v| graph.op(*v))
                .map(Op::kind),
        );
    }
    // Iota comes from expansions alone, kernels from the optimizer; picking what is largest makes a step of a
    // difference in the last bit, and so does rounding of what is computed; what was rounded elsewhere is a weight.
    let absent = [
        OpKind::Iota,
        OpKind::Acc,
        OpKind::Map,
        OpKind::Gemm,
        OpKind::TopKIds,
        OpKind::TopKValues,
        OpKind::Experts,
        OpKind::Dequantize,
    ];
    for kind in OpKind::ALL {
        assert_eq!(seen.contains(kind), !absent.contains(kind), "{kind:?}");
    }
}

#[test]
fn examples_evaluate() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/ir");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let graph: Graph = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!(graph.verify(), [], "{}", path.display());
        for out in eval(&graph, 1, 6) {
            assert!(out.data.iter().all(|x| x.is_finite()), "{}", path.display());
        }
    }
}
