//! How states lie in memory: those that attention alone reads lie as its register tiles want them, as integers where all that
//! is put there was rounded to such. Knows nothing of kernels.

use ir::{DType, Element, Graph, Op, Role, Value, abi::Layout, ops::FakeQuantize};
use std::collections::{BTreeMap, BTreeSet};

/// For each of the graph's inputs the layout of the state that it is, [`Layout::Rows`] for all else. Only where `codes` are
/// wanted there are some.
pub fn layouts(graph: &Graph, codes: bool) -> Vec<Layout> {
    let mut found: BTreeMap<Value, Layout> = BTreeMap::new();
    let states: Vec<(Value, BTreeSet<Value>)> = graph
        .inputs()
        .iter()
        .filter(|v| matches!(graph.as_input(**v), Some((_, Role::State))))
        .map(|v| (*v, versions(graph, *v)))
        .collect();
    for (state, versions) in &states {
        if let Some(layout) = wanted(graph, *state, versions) {
            found.insert(*state, layout);
        }
    }
    // A tile reads both in blocks or neither.
    loop {
        let layout = |v: &Value| {
            let state = states.iter().find(|(_, versions)| versions.contains(v));
            state.and_then(|(s, _)| found.get(s).copied())
        };
        let alone: Vec<Value> = graph
            .values()
            .filter(|v| matches!(graph.op(*v), Some(Op::Attention(_))))
            .filter(|v| {
                let [_, k, v, ..] = graph.args(*v) else {
                    return true;
                };
                [layout(k), layout(v)] != [Some(Layout::Keys), Some(Layout::Values)]
            })
            .collect();
        let before = found.len();
        found.retain(|state, _| {
            let (_, versions) = states
                .iter()
                .find(|(s, _)| s == state)
                .expect("found among states");
            let reads = |a: &Value| graph.args(*a).iter().any(|x| versions.contains(x));
            !alone.iter().any(reads)
        });
        if found.len() == before {
            break;
        }
    }
    // A tile reads integers on both sides or on neither.
    let coded = |v: &Value| {
        states
            .iter()
            .any(|(s, all)| s == v && holds_codes(graph, *v, all))
    };
    if codes && found.keys().all(coded) {
        found.values_mut().for_each(|l| *l = l.as_codes());
    }
    let of = |v: &Value| found.get(v).copied().unwrap_or_default();
    graph.inputs().iter().map(of).collect()
}

/// The rows that a map puts into a table, if it does: that table and what they are.
fn put(graph: &Graph, v: Value) -> Option<(Value, Value)> {
    let (Some(Op::Map(_)), [_, body]) = (graph.op(v), graph.args(v)) else {
        return None;
    };
    match (graph.op(*body), graph.args(*body)) {
        (Some(Op::Scatter(_)), [table, _, rows]) => Some((*table, *rows)),
        _ => None,
    }
}

/// The state, and what it is after rows of it were replaced.
fn versions(graph: &Graph, state: Value) -> BTreeSet<Value> {
    let mut versions = BTreeSet::from([state]);
    for v in graph.values() {
        if put(graph, v).is_some_and(|(table, _)| versions.contains(&table)) {
            versions.insert(v);
        }
    }
    versions
}

/// Whether all rows that are put into a state were rounded to 8 bits, each head with a scale.
fn holds_codes(graph: &Graph, state: Value, versions: &BTreeSet<Value>) -> bool {
    let head = graph.ty(state).last().known();
    let mut written = versions.iter().filter_map(|v| put(graph, *v)).peekable();
    written.peek().is_some()
        && written.all(|(_, rows)| {
            matches!(graph.op(rows), Some(Op::FakeQuantize(FakeQuantize { element: Element::Q8, group, scale: DType::F32 }))
                if Some(*group) == head)
        })
}

/// What the state's readers agree on.
fn wanted(graph: &Graph, state: Value, versions: &BTreeSet<Value>) -> Option<Layout> {
    let ty = graph.ty(state);
    let [_, heads, dim] = &ty.shape[..] else {
        return None;
    };
    if !ty.dtype.is_float() || heads.known().is_none() || dim.known().is_none() {
        return None;
    }
    let mut layout = None;
    for v in versions {
        for user in graph.users(*v) {
            let place = graph.args(user).iter().position(|a| a == v);
            let reads = match (graph.op(user), place) {
                // As the table alone: rows that depend on the state would be read row by row.
                (Some(Op::Scatter(_)), Some(0)) if !graph.args(user)[1..].contains(v) => continue,
                (Some(Op::Attention(_)), Some(1)) if graph.args(user)[2] != *v => Layout::Keys,
                (Some(Op::Attention(_)), Some(2)) => Layout::Values,
                _ => return None,
            };
            if layout.is_some_and(|l| l != reads) {
                return None;
            }
            layout = Some(reads);
        }
    }
    layout
}
