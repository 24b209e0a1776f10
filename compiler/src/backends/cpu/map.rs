//! The Map template: a loop nest over the output's rows, a [`RowBody`] in the middle.

use super::{
    function::Function,
    rows::{Columns, Row, RowBody},
};
use crate::schedule::View;
use cranelift_codegen::ir::Value;
use ir::{Dim, Graph, Op, artifact::Tasks};
use std::collections::HashMap;

/// Elements below which a chunk of work is not worth another thread.
const GRAIN_ELEMENTS: i64 = 8192;

/// Emits the kernel; gives its tasks (the output's first axis) and grain.
pub fn emit(
    f: &mut Function,
    body: &Graph,
    scatter: Option<usize>,
    views: &[View],
) -> Result<(Tasks, u64), String> {
    let (out, reads) = views.split_last().ok_or("a kernel without operands")?;
    // What the loops walk: the output, or the rows that are scattered into it.
    let space = &body.ty(body.outputs[0]).shape;
    let pointwise = space.len() == 1 && space[0].known().is_none();
    let outer: &[Dim] = if pointwise {
        space
    } else {
        &space[..space.len().saturating_sub(1)]
    };
    let columns = match space.last() {
        _ if pointwise => 1,
        Some(d) => d.known().ok_or_else(|| format!("rows of {d} columns"))?,
        None => 1,
    };
    let one = Dim::from(1);
    let first = outer.first().unwrap_or(&one);
    let inner: Vec<i64> = outer
        .iter()
        .skip(1)
        .map(|d| {
            d.known()
                .ok_or_else(|| format!("inner axis {d} is symbolic"))
        })
        .collect::<Result<_, _>>()?;
    let bases: Vec<Value> = (0..views.len()).map(|i| f.operand(i)).collect();
    let nest = Nest {
        body,
        scatter,
        reads,
        out,
        bases,
        rank: space.len(),
        pointwise,
        columns,
    };
    let (begin, end) = (f.begin, f.end);
    f.repeat(begin, end, 1, &[], |f, t, _| {
        nest.level(f, &mut vec![t], &inner)?;
        Ok(vec![])
    })?;
    let elements: i64 = inner.iter().product::<i64>() * columns;
    let tasks = Tasks {
        rows: first.clone(),
        rows_per_task: 1,
        columns: 1,
    };
    Ok((tasks, (GRAIN_ELEMENTS / elements.max(1)).max(1) as u64))
}

struct Nest<'a> {
    body: &'a Graph,
    scatter: Option<usize>,
    reads: &'a [View],
    out: &'a View,
    bases: Vec<Value>,
    rank: usize,
    pointwise: bool,
    columns: i64,
}

impl Nest<'_> {
    /// Loops over the remaining outer axes, then does one row.
    fn level(&self, f: &mut Function, index: &mut Vec<Value>, rest: &[i64]) -> Result<(), String> {
        let Some((n, rest)) = rest.split_first() else {
            return self.row(f, index);
        };
        let (zero, n) = (f.int(0), f.int(*n));
        f.repeat(zero, n, 1, &[], |f, i, _| {
            index.push(i);
            self.level(f, index, rest)?;
            index.pop();
            Ok(vec![])
        })?;
        Ok(())
    }

    fn row(&self, f: &mut Function, index: &[Value]) -> Result<(), String> {
        let mut rows = HashMap::new();
        for (i, input) in self.body.inputs().iter().enumerate() {
            let address = self.address(f, i, &self.reads[i], index, self.rank)?;
            rows.insert(
                *input,
                Row {
                    address,
                    dtype: self.reads[i].dtype,
                },
            );
        }
        for v in self.body.cone(&self.body.outputs) {
            if let Some(Op::Gather(_)) = self.body.op(v) {
                let position = |v| self.body.inputs().iter().position(|i| *i == v);
                let [table, ids] = self.body.args(v) else {
                    continue;
                };
                let (Some(table), Some(_)) = (position(*table), position(*ids)) else {
                    return Err("gather of something computed in the same kernel".into());
                };
                let id = f.load_index(rows[ids].address);
                let mut row = index.to_vec();
                row[0] = id;
                let view = &self.reads[table];
                let address = self.address(f, table, view, &row, view.shape.len())?;
                rows.insert(
                    v,
                    Row {
                        address,
                        dtype: view.dtype,
                    },
                );
            }
        }
        let mut target = index.to_vec();
        if let Some(ids) = self.scatter {
            target[0] = f.load_index(rows[&self.body.inputs()[ids]].address);
        }
        let out = self.address(f, self.reads.len(), self.out, &target, self.rank)?;
        let mut body = RowBody::new(self.body, rows, self.pointwise);
        body.store(f, out, Columns::Known(self.columns))
    }

    /// Address of column 0 of the operand's row for a loop index, aligned at the last axis of `rank` axes.
    fn address(
        &self,
        f: &mut Function,
        operand: usize,
        view: &View,
        index: &[Value],
        rank: usize,
    ) -> Result<Value, String> {
        let mut address = self.bases[operand];
        let bytes = view.dtype.bytes() as i64;
        // An index vector such as the ids of a gather counts rows, not columns.
        let counts_rows = view.shape.len() == 1 && rank > 1 && view.shape[0].known().is_none();
        let lead = if counts_rows {
            0
        } else {
            rank.saturating_sub(view.shape.len())
        };
        let walked = if self.pointwise || counts_rows {
            view.shape.len()
        } else {
            view.shape.len().saturating_sub(1)
        };
        for (axis, i) in (0..walked).zip(index.iter().skip(lead)) {
            if view.shape[axis].known() != Some(1) {
                address = f.offset(address, *i, view.strides[axis] * bytes);
            }
        }
        let last = view
            .shape
            .len()
            .checked_sub(1)
            .map(|l| (view.shape[l].known(), view.strides[l]));
        match last {
            Some((Some(n), stride)) if n != 1 && stride != 1 => {
                Err(format!("{view:?} has columns {stride} elements apart"))
            }
            _ => Ok(address),
        }
    }
}
