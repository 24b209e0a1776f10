//! The verifier of graphs: reports every violation, and trusts nothing that building a graph has already checked.

use crate::{
    Class, Graph, Op, OpKind, Role, Type, Value, Violation,
    graph::Node,
    text::{is_symbol, labels},
};
use std::collections::{BTreeMap, BTreeSet};

impl Graph {
    /// Every rule of well-formed graphs that this one breaks; none for a good one:
    ///
    /// - it has outputs, and names its inputs apart;
    /// - each value has the type that its op infers;
    /// - each [`Acc`](crate::ops::Acc) stands in the body of a kernel, for something the kernel has, of that type;
    ///   what a gemm's body makes of it is elementwise, a map's elementwise, row-wise or a view;
    /// - weights have known shapes, and a scatter writes to a state;
    /// - symbols are identifiers, each of one bound.
    pub fn verify(&self) -> Vec<Violation> {
        let mut found = vec![];
        let mut report = |place: &str, why: String| {
            found.push(Violation {
                place: place.into(),
                why,
            });
        };
        if self.outputs.is_empty() {
            report("outputs", "there are none".into());
        }
        if let Some(v) = self.outputs.iter().find(|v| v.index() >= self.len()) {
            report(
                "outputs",
                format!("value {} is not of this graph", v.index()),
            );
            return found;
        }
        let mut names = BTreeSet::new();
        for v in self.inputs() {
            if let Some((name, role)) = self.as_input(*v) {
                if !names.insert(name) {
                    report(name, "is the name of two inputs".into());
                }
                let ty = self.ty(*v);
                if role == Role::Weight && ty.shape.iter().any(|d| d.size().is_none()) {
                    report(name, format!("weight of type {ty}: its shape is not known"));
                }
            }
        }
        let labels = labels(self);
        let cone = self.cone(&self.outputs);
        for v in &cone {
            if let Node::Op { op, args } = self.node(*v) {
                let types: Vec<Type> = args.iter().map(|a| self.ty(*a).clone()).collect();
                match op.infer(&types) {
                    Ok(ty) if ty == *self.ty(*v) => {}
                    Ok(ty) => report(&labels[v], format!("has type {}, is {ty}", self.ty(*v))),
                    Err(refused) => report(&labels[v], refused.to_string()),
                }
                if op.kind() == OpKind::Scatter && !self.writes_state(*v) {
                    let table = &labels[&args[0]];
                    report(
                        &labels[v],
                        format!("scatters into {table}, which is no state"),
                    );
                }
            }
        }
        for (v, why) in self.misbound(&cone) {
            report(&labels[&v], why);
        }
        let mut bounds = BTreeMap::new();
        for symbol in self.symbols() {
            if !is_symbol(&symbol.name) {
                let why = "has a name of other characters than letters, digits and `_`";
                report(&format!("symbol {:?}", symbol.name), why.into());
            }
            if let Some(other) = bounds.insert(symbol.name.clone(), symbol.max) {
                let why = format!("is bounded by {other} and by {}", symbol.max);
                report(&format!("symbol {}", symbol.name), why);
            }
        }
        found
    }

    /// Whether a scatter's table is a state, or a scatter into one.
    fn writes_state(&self, mut v: Value) -> bool {
        while self.op(v).is_some_and(|op| op.kind() == OpKind::Scatter) {
            v = self.args(v)[0];
        }
        matches!(self.as_input(v), Some((_, Role::State)))
    }

    /// Accumulators that nothing binds, or a kernel that cannot.
    fn misbound(&self, cone: &[Value]) -> Vec<(Value, String)> {
        let mut found = vec![];
        let mut free: Vec<BTreeSet<Value>> = vec![BTreeSet::new(); self.len()];
        for v in cone {
            let mut accs = BTreeSet::new();
            for a in self.free_args(*v) {
                accs.extend(&free[a.index()]);
            }
            if let Some(Op::Acc(_)) = self.op(*v) {
                accs.insert(*v);
            }
            free[v.index()] = accs;
            let Some(op) = self.op(*v).filter(|op| op.kind().binds()) else {
                continue;
            };
            let Some(body) = self.args(*v).last() else {
                continue;
            };
            let products = self.accumulated(*v);
            for acc in &free[body.index()] {
                if let Some(Op::Acc(a)) = self.op(*acc) {
                    let index = usize::try_from(a.index).ok();
                    match index.and_then(|i| products.get(i)) {
                        Some(ty) if *ty == a.ty => {}
                        Some(ty) => {
                            let why = format!("acc {} of type {} stands for {ty}", a.index, a.ty);
                            found.push((*v, why));
                        }
                        None => {
                            let has = products.len();
                            let why = format!("has {has} accumulators, its body uses {}", a.index);
                            found.push((*v, why));
                        }
                    }
                }
            }
            let rowwise = op.kind() == OpKind::Map;
            for inner in self.free_cone(*body) {
                let Some(op) = self.op(inner) else { continue };
                let fits = match op.kind().class() {
                    Class::Elementwise => true,
                    Class::Rowwise | Class::View => rowwise,
                    Class::Other => op.kind() == OpKind::Acc,
                };
                if !fits && !free[inner.index()].is_empty() {
                    let why = format!("has {} in its body", op.kind().name());
                    found.push((*v, why));
                }
            }
        }
        for v in &self.outputs {
            for acc in &free[v.index()] {
                found.push((*acc, "stands outside the body of a kernel".into()));
            }
        }
        found
    }

    /// Types of the values that a kernel's body can refer to.
    fn accumulated(&self, kernel: Value) -> Vec<Type> {
        let args = self.free_args(kernel);
        let (Some(x), Some(op)) = (args.first(), self.op(kernel)) else {
            return vec![];
        };
        match op.kind() {
            OpKind::Gemm => {
                let product = |w: &Value| {
                    let types = [self.ty(*x).clone(), self.ty(*w).clone()];
                    Op::from(crate::ops::MatMul).infer(&types).ok()
                };
                args[1..].iter().filter_map(product).collect()
            }
            _ => vec![self.ty(*x).clone()],
        }
    }
}
