//! Elementary functions of whole rows: the runtime's registers are wider than Cranelift's, so an argument is written to
//! memory, the table's function runs over it, and the body goes on from there. Knows no op but those.

use super::{
    function::Function,
    rows::{Columns, Row, RowBody},
};
use cranelift_codegen::ir::Value;
use ir::{DType, Node, Op, OpKind, Value as Term, abi::KernelTable};
use std::{collections::BTreeSet, mem::offset_of};

/// Columns from which on a call pays.
const FROM: i64 = 16;

/// Memory for rows of functions, and the columns that each of them has.
#[derive(Clone, Copy, Debug)]
pub struct Spare {
    /// First byte.
    pub address: Value,
    /// Bytes.
    pub bytes: i64,
    /// Columns that a row has at most.
    pub most: i64,
    /// Columns of a row.
    pub columns: Columns,
}

/// The table's function for an op.
fn slot(op: &Op) -> Option<usize> {
    match op {
        Op::Exp(_) => Some(offset_of!(KernelTable, exp)),
        Op::Tanh(_) => Some(offset_of!(KernelTable, tanh)),
        Op::Erf(_) => Some(offset_of!(KernelTable, erf)),
        _ => None,
    }
}

impl RowBody<'_> {
    /// Computes the functions of whole rows that `v` needs, as far as there is memory, so that they are loaded from then
    /// on. The others are computed where they stand.
    pub(super) fn call_functions(&mut self, f: &mut Function, v: Term) -> Result<(), String> {
        let Some(spare) = self.spare else {
            return Ok(());
        };
        // The table's functions are made of fused multiply-adds, which must not be calls.
        if !f.fma || spare.most < FROM {
            return Ok(());
        }
        let (mut terms, mut stack) = (BTreeSet::new(), vec![v]);
        while let Some(v) = stack.pop() {
            let Node::Op { op, args } = self.graph.node(v) else {
                continue;
            };
            if self.is_scalar(v) || op.kind() == OpKind::Gather || !terms.insert(v) {
                continue;
            }
            if matches!(op, Op::Slice(_) | Op::Concat(_)) {
                // Its arguments have columns of their own.
                return Ok(());
            }
            stack.extend(args);
        }
        let row = 4 * (spare.most + FROM);
        for v in terms {
            let Node::Op { op, args } = self.graph.node(v) else {
                continue;
            };
            let Some(slot) = slot(op) else { continue };
            let done = self.rows.contains_key(&v) || self.graph.ty(v).dtype != DType::F32;
            if done || self.used + row > spare.bytes {
                continue;
            }
            let at = Row {
                address: f.add(spare.address, self.used),
                dtype: DType::F32,
                stride: 1,
            };
            self.used += row;
            self.write(f, args[0], at, spare.columns)?;
            let n = match spare.columns {
                Columns::Known(n) => f.int(n),
                Columns::Dynamic(n) => n,
            };
            f.call(slot, &[n, at.address], None);
            self.rows.insert(v, at);
        }
        Ok(())
    }
}
