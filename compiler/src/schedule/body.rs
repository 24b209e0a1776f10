//! Bodies of kernels: the open part of a kernel term as a graph of its own, over what the kernel accumulated or loaded
//! and what else it reads. Places nothing.

use super::{Operand, ScheduleError, View, kernels::Kernels};
use ir::{Graph, Node, Op, Role, Value};
use std::collections::HashMap;

/// What a kernel reads: a closed value, perhaps in another order of its axes.
pub(super) struct Read {
    pub value: Value,
    pub through: Option<Op>,
}

impl Read {
    pub(super) fn of(value: Value) -> Read {
        Read {
            value,
            through: None,
        }
    }
}

impl Kernels<'_> {
    /// Copies the open part of a body, with accumulators replaced and closed values turned into inputs, as is a
    /// transpose of the accumulator, which stands for `loaded`.
    pub(super) fn copy_body(
        &self,
        out: &mut Graph,
        root: Value,
        acc: &[Value],
        loaded: Option<Value>,
        reads: &mut Vec<Read>,
    ) -> Result<Value, ScheduleError> {
        let mut made: HashMap<Value, Value> = HashMap::new();
        // Only what the body itself computes: a closed value is an operand, whatever computes it.
        let mut stack = vec![root];
        let mut needed = std::collections::BTreeSet::new();
        while let Some(v) = stack.pop() {
            if needed.insert(v) && self.open[v.index()] {
                stack.extend(self.graph.args(v));
            }
        }
        for v in needed {
            let new = match self.graph.node(v) {
                Node::Op { op: Op::Acc(a), .. } => usize::try_from(a.index)
                    .ok()
                    .and_then(|i| acc.get(i).copied())
                    .ok_or_else(|| self.error(v, format!("no accumulator {}", a.index)))?,
                Node::Op {
                    op: op @ Op::Const(_),
                    ..
                } => out
                    .add(op.clone(), &[])
                    .map_err(|e| self.error(v, e.to_string()))?,
                Node::Op {
                    op: op @ Op::Transpose(_),
                    args,
                } if self.open[v.index()] => {
                    let of_acc = matches!(self.graph.op(args[0]), Some(Op::Acc(_)));
                    let value = loaded.filter(|_| of_acc).ok_or_else(|| {
                        self.error(v, "transposes what its own kernel computes".into())
                    })?;
                    let name = format!("read.{}", reads.len());
                    let through = Some(op.clone());
                    reads.push(Read { value, through });
                    out.input(name, Role::Data, self.graph.ty(v).clone())
                }
                Node::Op { op, args } if self.open[v.index()] => {
                    let args: Vec<Value> = args.iter().map(|a| made[a]).collect();
                    out.add(op.clone(), &args)
                        .map_err(|e| self.error(v, e.to_string()))?
                }
                _ => {
                    let name = format!("read.{}", reads.len());
                    reads.push(Read::of(v));
                    out.input(name, Role::Data, self.graph.ty(v).clone())
                }
            };
            made.insert(v, new);
        }
        Ok(made[&root])
    }

    /// The operand behind what a kernel reads.
    pub(super) fn read(&mut self, r: &Read) -> Result<(Operand, View), ScheduleError> {
        match &r.through {
            Some(op) => self.seen_through(r.value, op),
            None => self.operand(r.value),
        }
    }
}
