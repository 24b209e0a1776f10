//! What is known of a graph's values before it runs: which are computed at compile time, and how narrow they may be
//! stored.

use ir::{DType, Graph, Node, Op, Role, Value};

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

/// For each value the smallest element type that stores it exactly, as far as the ops show.
pub fn storage(graph: &Graph) -> Vec<DType> {
    let mut storage: Vec<DType> = graph.values().map(|v| graph.ty(v).dtype).collect();
    for v in graph.values() {
        let Node::Op { op, args } = graph.node(v) else {
            continue;
        };
        let exact = match op {
            Op::Cast(c) => c.to == DType::F32,
            Op::Transpose(_) | Op::Reshape(_) | Op::Slice(_) | Op::Concat(_) => true,
            _ => false,
        };
        let of = |a: &Value| storage[a.index()];
        if exact
            && args
                .iter()
                .all(|a| of(a) == of(&args[0]) && of(a).is_float())
        {
            storage[v.index()] = of(&args[0]);
        }
    }
    storage
}
