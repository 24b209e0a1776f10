//! What is known of a graph's values before it runs: which are computed at compile time, and how narrow they may be
//! stored.

use crate::storage::Storage;
use ir::{Graph, Node, Op, Role, Value};

/// For each value whether it is known at compile time; literals, which kernels hold themselves, apart.
pub fn weights_only(graph: &Graph) -> Vec<bool> {
    let mut known = vec![false; graph.len()];
    for v in graph.values() {
        let literal = |a: &Value| matches!(graph.op(*a), Some(Op::Const(_)));
        known[v.index()] = match graph.node(v) {
            Node::Input { role, .. } => *role == Role::Weight,
            Node::Op { op, args } => {
                let sized = graph.ty(v).shape.iter().all(|d| d.known().is_some());
                !matches!(op, Op::Acc(_) | Op::Const(_))
                    && sized
                    && args.iter().all(|a| known[a.index()] || literal(a))
            }
        };
    }
    known
}

/// For each value the narrowest way to store it exactly, as far as the ops show.
pub fn storage(graph: &Graph) -> Vec<Storage> {
    let mut storage: Vec<Storage> = vec![];
    for v in graph.values() {
        storage.push(match graph.node(v) {
            Node::Input { .. } => Storage::plain(graph.ty(v).dtype),
            Node::Op { op, args } => {
                let args: Vec<Storage> = args.iter().map(|a| storage[a.index()]).collect();
                Storage::of(op, &args, graph.ty(v))
            }
        });
    }
    storage
}
