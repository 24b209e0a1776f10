//! The Map template: a loop nest over the output's rows, a [`RowBody`] in the middle.

use super::{
    function::Function,
    functions::Spare,
    rows::{Columns, Row, RowBody},
};
use crate::{
    backends::rows::Walk,
    schedule::{Round, View},
};
use cranelift_codegen::ir::{InstBuilder, Value};
use ir::{
    DType, Dim, Element, Graph, Op,
    abi::{BLOCK, KernelTable, Layout, PANEL, SCRATCH_BYTES},
    artifact::Tasks,
};
use std::{collections::HashMap, mem::offset_of};

/// Elements below which a chunk of work is not worth another thread.
const GRAIN_ELEMENTS: i64 = 8192;

/// Emits the kernel; gives its tasks (the output's first axis) and grain.
pub fn emit(
    f: &mut Function,
    body: &Graph,
    scatter: Option<usize>,
    round: Round,
    views: &[View],
) -> Result<(Tasks, u64), String> {
    let (out, reads) = views.split_last().ok_or("a kernel without operands")?;
    let Walk {
        space,
        pointwise,
        outer,
        columns,
    } = Walk::of(body, scatter.is_some(), out)?;
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
    // Rows of integers are addressed by bytes.
    let mut coded = out.clone();
    if let (Round::Codes(codec), Layout::Rows) = (round, out.layout) {
        coded.dtype = DType::Bool;
        coded.strides = out.strides.iter().map(|s| s / columns.max(1)).collect();
        let row = codec.row(columns as usize) as i64;
        coded.strides.iter_mut().for_each(|s| *s *= row);
    }
    let out = &coded;
    let bases: Vec<Value> = (0..views.len()).map(|i| f.operand(i)).collect();
    let nest = Nest {
        body,
        scatter,
        round,
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

/// Address of a row of a state that lies in blocks.
fn in_blocks(f: &mut Function, base: Value, view: &View, row: Value) -> Value {
    let bytes = view.dtype.bytes() as i64;
    let head_dim = view.shape[2].known().unwrap_or(0);
    // Blocks, then for keys panels and columns of a panel, for values rows.
    let (part, across) = match view.layout {
        Layout::Keys | Layout::KeyCodes => (PANEL, [head_dim * PANEL as i64, 1]),
        _ => (1, [head_dim, 0]),
    };
    let mut address = base;
    let mut rest = row;
    for (n, stride) in [(BLOCK, view.strides[0]), (part, across[0]), (1, across[1])] {
        let shift = i64::from(n.trailing_zeros());
        let whole = f.b.ins().ushr_imm_u(rest, shift);
        address = f.offset(address, whole, stride * bytes);
        rest = f.b.ins().band_imm_u(rest, n as i64 - 1);
    }
    address
}

/// Address of the scale of a row and head of a state that holds codes.
fn scale(f: &mut Function, base: Value, view: &View, [row, head]: [Value; 2]) -> Value {
    let head_dim = view.shape[2].known().unwrap_or(0);
    let block = f.b.ins().ushr_imm_u(row, i64::from(BLOCK.trailing_zeros()));
    let within = f.b.ins().band_imm_u(row, BLOCK as i64 - 1);
    let address = f.offset(base, block, view.strides[0]);
    let address = f.offset(address, head, view.strides[1]);
    let address = f.add(address, BLOCK as i64 * head_dim);
    f.offset(address, within, size_of::<f32>() as i64)
}

struct Nest<'a> {
    body: &'a Graph,
    scatter: Option<usize>,
    round: Round,
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
            rows.insert(*input, self.at(f, i, &self.reads[i], index, self.rank));
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
                *first = self.row_number(f, ids, *first)?;
                let view = &self.reads[table];
                rows.insert(v, self.at(f, table, view, &row, view.shape.len()));
            }
        }
        let mut target = index.to_vec();
        if let Some(ids) = self.scatter {
            target[0] = self.row_number(f, ids, index[0])?;
        }
        let out = self.at(f, self.reads.len(), self.out, &target, self.rank);
        let columns = Columns::Known(self.columns);
        // A row that is rounded comes first.
        let half = SCRATCH_BYTES as i64 / 2;
        let scratch = f.scratch();
        let spare = Spare {
            address: f.add(scratch, half),
            bytes: half,
            part: None,
        };
        let body = |rows| RowBody::new(self.body, rows, self.pointwise).with(spare);
        let (slot, codec) = match self.round {
            Round::None => return body(rows).store(f, out, columns),
            Round::Codes(codec) => match codec.grouped() {
                Some((Element::Q16, _)) => (offset_of!(KernelTable, quantize_q16), codec),
                _ => (offset_of!(KernelTable, quantize_q8), codec),
            },
            Round::Values(codec) => (offset_of!(KernelTable, fake_quantize), codec),
        };
        let Some((element, group)) = codec.grouped() else {
            return Err(format!("rounds rows to {codec}"));
        };
        if self.columns * 4 > half {
            return Err(format!(
                "a row of {} columns outgrows scratch memory",
                self.columns
            ));
        }
        let root = self.body.outputs[0];
        let as_loaded = rows
            .get(&root)
            .filter(|r| r.dtype == DType::F32 && r.stride == 1 && self.body.op(root).is_none());
        let row = match as_loaded {
            Some(row) => row.address,
            None => {
                let scratch = Row {
                    address: scratch,
                    dtype: DType::F32,
                    stride: 1,
                };
                body(rows).store(f, scratch, columns)?;
                scratch.address
            }
        };
        if self.out.layout.coded() {
            let [row_number, head] = target[..] else {
                return Err(format!("{:?} has no heads", self.out));
            };
            let base = self.bases[self.reads.len()];
            let scale = scale(f, base, self.out, [row_number, head]);
            let (n, step) = (f.int(self.columns), f.int(out.stride));
            f.call(
                offset_of!(KernelTable, quantize_head),
                &[n, row, out.address, step, scale],
                None,
            );
            return Ok(());
        }
        let (k, group) = (f.int(self.columns), f.int(group.into()));
        let mut args = vec![k, group, row, out.address];
        if let Round::Values(_) = self.round {
            args.insert(0, f.int(element.bits() as i64));
        }
        f.call(slot, &args, None);
        Ok(())
    }

    /// What a vector of row numbers holds at an index.
    fn row_number(&self, f: &mut Function, ids: usize, index: Value) -> Result<Value, String> {
        let view = &self.reads[ids];
        let (DType::I32, [n], [stride]) = (view.dtype, &view.shape[..], &view.strides[..]) else {
            return Err(format!("{view:?} holds no row numbers"));
        };
        let stride = if n.known() == Some(1) { 0 } else { *stride };
        let address = f.offset(self.bases[ids], index, 4 * stride);
        Ok(f.load_index(address))
    }

    /// The operand's row for a loop index, aligned at the last axis of `rank` axes.
    fn at(
        &self,
        f: &mut Function,
        operand: usize,
        view: &View,
        index: &[Value],
        rank: usize,
    ) -> Row {
        let mut address = self.bases[operand];
        let bytes = view.dtype.bytes() as i64;
        let lead = rank.saturating_sub(view.shape.len());
        let walked = view.shape.len() - usize::from(!self.pointwise && !view.shape.is_empty());
        for (axis, i) in (0..walked).zip(index.iter().skip(lead)) {
            if axis == 0 && view.layout != Layout::Rows {
                address = in_blocks(f, address, view, *i);
            } else if view.shape[axis].known() != Some(1) {
                address = f.offset(address, *i, view.strides[axis] * bytes);
            }
        }
        Row {
            address,
            dtype: view.dtype,
            stride: view.strides.last().copied().unwrap_or(1),
        }
    }
}
