//! Elementary functions of whole rows: the runtime's registers are wider than Cranelift's, so an argument is written to
//! memory, the table's function runs over it, and the body goes on from there. So do rotations, of which every element needs
//! others. Knows no op but those.

use super::{
    function::Function,
    rows::{Columns, Row, RowBody},
};
use crate::backends::rows;
use cranelift_codegen::ir::Value;
use ir::{DType, Graph, Node, Op, OpKind, Value as Term, abi::KernelTable};
use std::{collections::BTreeSet, mem::offset_of};

/// Columns from which on a call pays.
const FROM: i64 = 16;

/// Memory for rows of functions.
#[derive(Clone, Copy, Debug)]
pub struct Spare {
    /// First byte.
    pub address: Value,
    /// Bytes.
    pub bytes: i64,
    /// The columns that every row has, and how many those are at most, where rows are parts of the graph's.
    pub part: Option<(Columns, i64)>,
}

impl Spare {
    /// Columns of a value's row, and how many those are at most.
    fn columns(&self, graph: &Graph, v: Term) -> Result<(Columns, i64), String> {
        match self.part {
            Some(part) => Ok(part),
            None => rows::width(graph, v).map(|n| (Columns::Known(n), n)),
        }
    }
}

/// The table's function for an op, and what it is told besides the row.
fn slot(op: &Op) -> Option<(usize, Option<i64>)> {
    match op {
        Op::Exp(_) => Some((offset_of!(KernelTable, exp), None)),
        Op::Tanh(_) => Some((offset_of!(KernelTable, tanh), None)),
        Op::Erf(_) => Some((offset_of!(KernelTable, erf), None)),
        Op::Hadamard(h) => Some((offset_of!(KernelTable, hadamard), Some(h.block))),
        _ => None,
    }
}

impl RowBody<'_> {
    /// Computes the functions of whole rows that `v` needs, so that they are loaded from then on. Elementary ones do so as far
    /// as there is memory, and are computed where they stand otherwise; rotations have no other place.
    pub(super) fn call_functions(&mut self, f: &mut Function, v: Term) -> Result<(), String> {
        let Some(spare) = self.spare else {
            return Ok(());
        };
        let (mut terms, mut stack) = (BTreeSet::new(), vec![v]);
        // The table's elementary functions are made of fused multiply-adds, which must not be calls.
        let mut elementary = f.fma;
        let mut rotations = 0;
        while let Some(v) = stack.pop() {
            let Node::Op { op, args } = self.graph.node(v) else {
                continue;
            };
            if self.is_scalar(v) || op.kind() == OpKind::Gather || !terms.insert(v) {
                continue;
            }
            // What is cut or joined has columns of its own.
            elementary &= !matches!(op, Op::Slice(_) | Op::Concat(_));
            if let (Op::Hadamard(_), false) = (op, self.rows.contains_key(&v)) {
                rotations += bytes(spare.columns(self.graph, v)?.1);
            }
            stack.extend(args);
        }
        if self.used + rotations > spare.bytes {
            return Err(format!(
                "rows to be rotated take {rotations} bytes of scratch memory, of {} bytes {} are taken",
                spare.bytes, self.used
            ));
        }
        for v in terms {
            let Node::Op { op, args } = self.graph.node(v) else {
                continue;
            };
            let (Some((slot, block)), false) = (slot(op), self.rows.contains_key(&v)) else {
                continue;
            };
            let (columns, most) = spare.columns(self.graph, v)?;
            let row = bytes(most);
            if block.is_some() {
                rotations -= row;
            }
            let pays = elementary && most >= FROM && self.graph.ty(v).dtype == DType::F32;
            let fits = pays && self.used + row + rotations <= spare.bytes;
            if block.is_none() && !fits {
                continue;
            }
            let at = Row {
                address: f.add(spare.address, self.used),
                dtype: DType::F32,
                stride: 1,
            };
            // What a rotation's inputs need may have taken what was left.
            if self.used + row > spare.bytes {
                return Err(format!(
                    "a row of {row} bytes does not fit in scratch memory, of {} bytes {} are taken",
                    spare.bytes, self.used
                ));
            }
            self.used += row;
            self.write(f, args[0], at, columns)?;
            let n = match columns {
                Columns::Known(n) => f.int(n),
                Columns::Dynamic(n) => n,
            };
            let block = block.map(|block| f.int(block));
            let told: Vec<Value> = [Some(n), block, Some(at.address)]
                .into_iter()
                .flatten()
                .collect();
            f.call(slot, &told, None);
            self.rows.insert(v, at);
        }
        Ok(())
    }
}

/// Of a row in memory for functions.
fn bytes(columns: i64) -> i64 {
    4 * (columns + FROM)
}
