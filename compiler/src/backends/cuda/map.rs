//! The Map template: each row of the output is a team's, a [`RowBody`] in the middle.

use super::{
    rotate,
    rows::{Row, RowBody, TOGETHER, Team},
    source::Source,
    text::{self, Text},
};
use crate::{
    backends::rows::Walk,
    schedule::{Inlined, Round, View},
};
use ir::{DType, Dim, Graph, Name, Op, artifact::Tasks};
use std::collections::HashMap;

/// Threads of a block whose rows are a warp's or a thread's each.
const BLOCK: u32 = 256;
/// Columns above which a row is a whole block's.
const WIDE: i64 = 1024;

/// The kernel's sources: one, but for a map that its readers compute in steps of one row, in which it does nothing.
pub fn emit(
    body: &Graph,
    scatter: Option<usize>,
    round: Round,
    elided: bool,
    views: &[View],
    symbols: &[Name],
) -> Result<Vec<Source>, String> {
    let (out, reads) = views.split_last().ok_or("a kernel without operands")?;
    let Walk {
        space,
        pointwise,
        outer,
        columns,
    } = Walk::of(body, scatter.is_some(), out)?;
    let cone = body.cone(&body.outputs);
    let widths = cone.iter().filter_map(|v| body.ty(*v).last().known());
    let widest = widths.chain([columns]).max().unwrap_or(1);
    let group = match round {
        Round::None => None,
        Round::Values(codec) if !pointwise && scatter.is_none() => codec.grouped(),
        _ => return Err(format!("rounds to {round:?}")),
    };
    let fours = (widest / TOGETHER).max(1) as u64;
    let mut ops = cone.iter().filter_map(|v| body.op(*v));
    let joint = |op: &Op| matches!(op, Op::Sum(_) | Op::Amax(_) | Op::Hadamard(_));
    let alone = group.is_none() && !ops.any(joint);
    let (team, threads) = match widest {
        _ if pointwise => (Team::Element, BLOCK),
        0..=WIDE if alone => (
            Team::Threads(fours.next_power_of_two().min(32) as u32),
            BLOCK,
        ),
        0..=WIDE => (Team::Threads(32), BLOCK),
        _ => {
            let threads = (fours / 4).next_power_of_two().clamp(128, 1024) as u32;
            (Team::Threads(threads), threads)
        }
    };
    let each = match team {
        Team::Threads(n) => n,
        Team::Element => 1,
    };
    let rows = outer.iter().fold(Dim::from(1), |n, d| n * d.clone());
    let nest = Nest {
        body,
        reads,
        first: 0,
        rank: space.len(),
        pointwise,
    };
    let mut t = Text::default();
    let head = format!(
        "extern \"C\" __global__ void __launch_bounds__({threads}) kernel(const __grid_constant__ Args args)"
    );
    let per_block = threads / each;
    let shared = t.block(head, |t| {
        t.line(format_args!("const int lane = threadIdx.x % {each};"));
        t.line(format_args!(
            "const int row = blockIdx.x * {per_block} + threadIdx.x / {each};"
        ));
        t.line("let_dependents_start();");
        t.line("wait_for_inputs();");
        t.line(format_args!(
            "if (row >= {}) return;",
            text::dim(&rows, symbols)?
        ));
        let index = indices(t, outer)?;
        let sources = nest.sources(t, &index)?;
        let mut target = index.clone();
        if let Some(ids) = scatter {
            target[0] = nest.row_number(t, ids, &index[0])?;
        }
        let to = nest.at(t, "", reads.len(), out, &target, space.len());
        let store = |t: &mut Text, column: &str, x: &str| {
            let (dtype, address) = (out.dtype.name(), &to.address);
            t.line(format_args!("store_{dtype}({address}, {column}, {x});"));
        };
        let mut row = RowBody::new(body, sources, team).sharing(per_block);
        row.store(t, columns, &store)?;
        if let Some((element, group)) = group {
            let bits = element.bits();
            let (address, groups) = (&to.address, columns / i64::from(group));
            t.line(format_args!(
                "round_to_codes<{bits}, {group}, {each}>((float*){address}, {groups}, lane);"
            ));
        }
        Ok::<_, String>(row.shared())
    })?;
    let tasks = Tasks {
        rows,
        rows_per_task: per_block.into(),
        columns: 1,
    };
    let mut text = t.finish();
    if shared > 0 {
        text = [rotate::TEXT, &text].join("\n");
    }
    let mut source = Source::new("map", views.len(), text, tasks, threads);
    source.shared = shared;
    if !elided {
        return Ok(vec![source]);
    }
    // Rows of the map for one row of the step.
    let one = outer
        .iter()
        .skip(1)
        .filter_map(Dim::size)
        .product::<usize>();
    let mut nothing = source.clone();
    nothing.rows = one as u64;
    nothing.tasks.columns = 0;
    Ok(vec![nothing, source])
}

/// A function that computes one row of an inlined map: `head`'s `lane` of the team, the row's index along each axis but the
/// last, and what becomes of each element.
pub fn function(
    t: &mut Text,
    head: &str,
    inlined: &Inlined,
    views: &[View],
    index: &[&str],
    team: Team,
    store: &dyn Fn(&mut Text, &str, &str),
) -> Result<(), String> {
    let body = &inlined.body;
    let columns = body.ty(body.outputs[0]).last();
    let columns = columns
        .known()
        .ok_or_else(|| format!("rows of {columns} columns"))?;
    let nest = Nest {
        body,
        reads: &views[inlined.first..][..body.inputs().len()],
        first: inlined.first,
        rank: index.len() + 1,
        pointwise: false,
    };
    t.block(head, |t| {
        let index: Vec<String> = index.iter().map(ToString::to_string).collect();
        let sources = nest.sources(t, &index)?;
        RowBody::new(body, sources, team).store(t, columns, store)
    })
}

/// Of an inlined map that scatters: which row of the state gets row `index`, and the operand that says so.
pub fn scattered(
    inlined: &Inlined,
    views: &[View],
    index: &str,
) -> Result<(String, usize), String> {
    let ids = inlined.scatter.ok_or("a map that scatters nothing")? + inlined.first;
    Ok((row_number(ids, &views[ids], index)?, ids))
}

/// What a vector of row numbers holds at an index.
fn row_number(operand: usize, view: &View, index: &str) -> Result<String, String> {
    let (DType::I32, [n], [stride]) = (view.dtype, &view.shape[..], &view.strides[..]) else {
        return Err(format!("{view:?} holds no row numbers"));
    };
    let stride = if n.known() == Some(1) { 0 } else { *stride };
    Ok(format!(
        "load_i32(args.p[{operand}], (i64){index} * {stride})"
    ))
}

/// The row's index along each outer axis, of which the first alone may be symbolic.
fn indices(t: &mut Text, outer: &[Dim]) -> Result<Vec<String>, String> {
    let mut left = "row".to_string();
    let mut index = vec![];
    for d in outer.iter().skip(1).rev() {
        let n = d
            .known()
            .ok_or_else(|| format!("inner axis {d} is symbolic"))?;
        index.push(t.variable("const int", format_args!("{left} % {}", n.max(1))));
        left = t.variable("const int", format_args!("{left} / {}", n.max(1)));
    }
    if !outer.is_empty() {
        index.push(left);
    }
    index.reverse();
    Ok(index)
}

struct Nest<'a> {
    body: &'a Graph,
    reads: &'a [View],
    /// Which of the kernel's operands the first of them is.
    first: usize,
    rank: usize,
    pointwise: bool,
}

impl Nest<'_> {
    /// Rows of the inputs and gathers.
    fn sources(&self, t: &mut Text, index: &[String]) -> Result<HashMap<ir::Value, Row>, String> {
        let mut rows = HashMap::new();
        for (i, input) in self.body.inputs().iter().enumerate() {
            rows.insert(
                *input,
                self.at(t, "const ", i, &self.reads[i], index, self.rank),
            );
        }
        let position = |v| self.body.inputs().iter().position(|i| *i == v);
        for v in self.body.cone(&self.body.outputs) {
            if let Some(Op::Gather(_)) = self.body.op(v) {
                let [table, ids] = self.body.args(v) else {
                    continue;
                };
                let (Some(table), Some(ids)) = (position(*table), position(*ids)) else {
                    return Err("gather of something computed in the same kernel".into());
                };
                let lead = self.rank.saturating_sub(self.body.ty(v).shape.len());
                let mut row = index.get(lead..).unwrap_or_default().to_vec();
                let first = row.first_mut().ok_or("gather without rows")?;
                *first = self.row_number(t, ids, first)?;
                let view = &self.reads[table];
                rows.insert(v, self.at(t, "const ", table, view, &row, view.shape.len()));
            }
        }
        Ok(rows)
    }

    /// What a vector of row numbers holds at an index.
    fn row_number(&self, t: &mut Text, ids: usize, index: &str) -> Result<String, String> {
        let load = row_number(self.first + ids, &self.reads[ids], index)?;
        Ok(t.variable("const int", load))
    }

    /// The operand's row for an index, aligned at the last axis of `rank` axes.
    fn at(
        &self,
        t: &mut Text,
        constant: &str,
        operand: usize,
        view: &View,
        index: &[String],
        rank: usize,
    ) -> Row {
        let bytes = view.dtype.bytes() as i64;
        let lead = rank.saturating_sub(view.shape.len());
        let walked = view.shape.len() - usize::from(!self.pointwise && !view.shape.is_empty());
        let mut address = format!("args.p[{}]", self.first + operand);
        for (axis, i) in (0..walked).zip(index.iter().skip(lead)) {
            if view.shape[axis].known() != Some(1) && view.strides[axis] != 0 {
                address += &format!(" + (i64){i} * {}", view.strides[axis] * bytes);
            }
        }
        Row {
            address: t.variable(&format!("{constant}char*"), address),
            dtype: view.dtype,
            stride: view.strides.last().copied().unwrap_or(1),
        }
    }
}
