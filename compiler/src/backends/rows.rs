//! How bodies are walked, on every backend: which axes are rows, how many columns a row has, and segments of columns
//! within which every `concat` picks one argument, so that indices stay linear. Knows no code.

use crate::schedule::View;
use ir::{Class, Dim, Graph, Node, Op, OpKind, Value};
use std::collections::BTreeSet;

/// How a map walks over its output.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// What is walked: the output, or the rows that are scattered into it.
    pub space: &'a [Dim],
    /// Rows are of one element, however many: of unknown number, or each at an index of its own.
    pub pointwise: bool,
    /// The axes of rows.
    pub outer: &'a [Dim],
    /// Elements of a row.
    pub columns: i64,
}

impl<'a> Walk<'a> {
    /// That of a map with the body, scattered or not, whose output is `out`.
    ///
    /// # Errors
    /// Rows of symbolic length, or an op over whole rows where elements are walked singly.
    pub fn of(body: &'a Graph, scattered: bool, out: &'a View) -> Result<Walk<'a>, String> {
        let space: &[Dim] = match scattered {
            true => &body.ty(body.outputs[0]).shape,
            false => &out.shape,
        };
        let cone = body.cone(&body.outputs);
        let kinds = || cone.iter().filter_map(|v| body.op(*v)).map(Op::kind);
        let indexed = scattered || kinds().any(|k| k == OpKind::Gather);
        let pointwise = space.len() == 1 && (indexed || space[0].known().is_none());
        let whole_row = |k| k != OpKind::Gather && OpKind::class(k) != Class::Elementwise;
        if let Some(k) = kinds().find(|k| pointwise && whole_row(*k) && *k != OpKind::Const) {
            return Err(format!("{} over elements that are walked singly", k.name()));
        }
        let (outer, columns) = match space.split_last() {
            _ if pointwise => (space, 1),
            Some((last, outer)) => (outer, known(last)?),
            None => (space, 1),
        };
        Ok(Walk {
            space,
            pointwise,
            outer,
            columns,
        })
    }
}

fn known(columns: &Dim) -> Result<i64, String> {
    let error = || format!("rows of {columns} columns");
    columns.known().ok_or_else(error)
}

/// Columns of a value.
///
/// # Errors
/// A symbolic last axis.
pub fn width(graph: &Graph, v: Value) -> Result<i64, String> {
    let ty = graph.ty(v);
    let error = || format!("{ty} has a symbolic last axis");
    ty.last().known().ok_or_else(error)
}

/// Columns `start..start + len` of `v` as `(start, len)` parts within which each concat picks one argument. What is
/// `scalar` has no columns.
///
/// # Errors
/// A symbolic last axis.
pub fn segments(
    graph: &Graph,
    scalar: &dyn Fn(Value) -> bool,
    v: Value,
    start: i64,
    len: i64,
) -> Result<Vec<(i64, i64)>, String> {
    let mut found = BTreeSet::from([0, len]);
    cuts(graph, scalar, v, start, len, &mut found)?;
    let found: Vec<i64> = found.into_iter().collect();
    let parts = found.windows(2).map(|w| (start + w[0], w[1] - w[0]));
    Ok(parts.collect())
}

/// Cuts relative to `start`.
fn cuts(
    graph: &Graph,
    scalar: &dyn Fn(Value) -> bool,
    v: Value,
    start: i64,
    len: i64,
    found: &mut BTreeSet<i64>,
) -> Result<(), String> {
    let Node::Op { op, args } = graph.node(v) else {
        return Ok(());
    };
    if scalar(v) || op.kind() == OpKind::Gather {
        return Ok(());
    }
    match op {
        Op::Slice(s) => cuts(graph, scalar, args[0], start + s.start, len, found),
        Op::Concat(_) => {
            let mut first = 0;
            for a in args {
                let width = width(graph, *a)?;
                let (from, to) = (start.max(first), (start + len).min(first + width));
                if from < to {
                    let mut inner = BTreeSet::new();
                    cuts(graph, scalar, *a, from - first, to - from, &mut inner)?;
                    found.extend(inner.iter().map(|c| c + from - start));
                    found.extend([from - start, to - start]);
                }
                first += width;
            }
            Ok(())
        }
        _ => args
            .iter()
            .try_for_each(|a| cuts(graph, scalar, *a, start, len, found)),
    }
}
