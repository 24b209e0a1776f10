//! The graph: typed, hash-consed, append-only SSA. Index order is a topological order, because a node is added
//! after its arguments and never changed. The only importer of petgraph; knows no particular op but [`Acc`].

use crate::{
    DType, Float, Name, Type, TypeError,
    ops::{Const, Op},
};
use petgraph::{
    Direction,
    graph::{DiGraph, NodeIndex},
};
use std::collections::{BTreeSet, HashMap};

/// A value in one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(NodeIndex);

impl Value {
    /// Its position in the graph, from 0.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// What an input is, which decides what the optimizer and the runtime may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Differs from step to step.
    Data,
    /// Known at compile time: what depends on weights alone is computed there.
    Weight,
    /// Kept between steps; an output may take its place in memory.
    State,
}

/// What computes a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// Given from outside.
    Input {
        /// Unique among the graph's inputs.
        name: Name,
        /// See [`Role`].
        role: Role,
    },
    /// Computed from earlier values.
    Op {
        /// Op and attributes.
        op: Op,
        /// In the op's order.
        args: Vec<Value>,
    },
}

/// See the module's text. Cloning copies it.
#[derive(Clone, Default)]
pub struct Graph {
    nodes: DiGraph<(Node, Type), ()>,
    seen: HashMap<Node, Value>,
    inputs: Vec<Value>,
    /// What the graph computes, in order; a value may stand there twice.
    pub outputs: Vec<Value>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Adds an input, or finds the one of that name.
    ///
    /// # Panics
    /// When an input of that name has another role or type: names are chosen by code, not by users.
    pub fn input(&mut self, name: impl Into<Name>, role: Role, ty: Type) -> Value {
        let name = name.into();
        if let Some(v) = self.find_input(&name) {
            assert!(
                *self.ty(v) == ty
                    && matches!(self.node(v), Node::Input { role: r, .. } if *r == role),
                "input {name} declared twice, as {} and {ty}",
                self.ty(v)
            );
            return v;
        }
        let v = self.push(Node::Input { name, role }, ty);
        self.inputs.push(v);
        v
    }

    /// The input of that name.
    pub fn find_input(&self, name: &str) -> Option<Value> {
        self.inputs
            .iter()
            .copied()
            .find(|v| matches!(self.node(*v), Node::Input { name: n, .. } if **n == *name))
    }

    /// Adds a node, or finds the equal one.
    ///
    /// # Errors
    /// When the op refuses the arguments' types.
    pub fn add(&mut self, op: impl Into<Op>, args: &[Value]) -> Result<Value, TypeError> {
        let node = Node::Op {
            op: op.into(),
            args: args.to_vec(),
        };
        if let Some(v) = self.seen.get(&node) {
            return Ok(*v);
        }
        let types: Vec<Type> = args.iter().map(|a| self.ty(*a).clone()).collect();
        let Node::Op { op, .. } = &node else {
            return Err(crate::ops::refuse("input", "is no op", &types));
        };
        let ty = op.infer(&types)?;
        Ok(self.push(node, ty))
    }

    /// An f32 scalar.
    pub fn constant(&mut self, value: f64) -> Value {
        self.scalar(DType::F32, value)
    }

    /// A scalar of the element type of `v`.
    pub fn constant_like(&mut self, v: Value, value: f64) -> Value {
        self.scalar(self.ty(v).dtype, value)
    }

    fn scalar(&mut self, dtype: DType, value: f64) -> Value {
        let value = Float::from(value);
        let node = Node::Op {
            op: Op::Const(Const { value, dtype }),
            args: vec![],
        };
        match self.seen.get(&node) {
            Some(v) => *v,
            None => self.push(node, Type::scalar(dtype)),
        }
    }

    fn push(&mut self, node: Node, ty: Type) -> Value {
        let index = self.nodes.add_node((node.clone(), ty));
        if let Node::Op { args, .. } = &node {
            for a in args {
                self.nodes.add_edge(a.0, index, ());
            }
        }
        self.seen.insert(node, Value(index));
        Value(index)
    }

    /// What computes the value.
    pub fn node(&self, v: Value) -> &Node {
        &self.nodes[v.0].0
    }

    /// The value's type.
    pub fn ty(&self, v: Value) -> &Type {
        &self.nodes[v.0].1
    }

    /// The op that computes the value; `None` for an input.
    pub fn op(&self, v: Value) -> Option<&Op> {
        match self.node(v) {
            Node::Op { op, .. } => Some(op),
            Node::Input { .. } => None,
        }
    }

    /// The value's arguments; none for an input.
    pub fn args(&self, v: Value) -> &[Value] {
        match self.node(v) {
            Node::Op { args, .. } => args,
            Node::Input { .. } => &[],
        }
    }

    /// Inputs in the order they were declared: the graph's signature.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// Name and role of an input; `None` for an op.
    pub fn as_input(&self, v: Value) -> Option<(&Name, Role)> {
        match self.node(v) {
            Node::Input { name, role } => Some((name, *role)),
            Node::Op { .. } => None,
        }
    }

    /// Every value, arguments before users.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = Value> + use<> {
        (0..self.nodes.node_count()).map(|i| Value(NodeIndex::new(i)))
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.nodes.node_count()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values that take this one as an argument, each once.
    pub fn users(&self, v: Value) -> BTreeSet<Value> {
        self.nodes
            .neighbors_directed(v.0, Direction::Outgoing)
            .map(Value)
            .collect()
    }

    /// Values that the given ones depend on, themselves included, arguments before users.
    pub fn cone(&self, roots: &[Value]) -> Vec<Value> {
        let mut needed = vec![false; self.len()];
        for r in roots {
            needed[r.index()] = true;
        }
        for v in self.values().rev() {
            if needed[v.index()] {
                for a in self.args(v) {
                    needed[a.index()] = true;
                }
            }
        }
        self.values().filter(|v| needed[v.index()]).collect()
    }

    /// For each value whether an [`Acc`](crate::ops::Acc) that no enclosing kernel binds occurs in it.
    pub fn open(&self) -> Vec<bool> {
        let mut open = vec![false; self.len()];
        for v in self.values() {
            let is_acc = matches!(self.op(v), Some(Op::Acc(_)));
            open[v.index()] = is_acc || self.free_args(v).iter().any(|a| open[a.index()]);
        }
        open
    }

    /// Arguments whose accumulators are free in the value: all but the body of a kernel.
    pub(crate) fn free_args(&self, v: Value) -> &[Value] {
        let args = self.args(v);
        let bound = usize::from(self.op(v).is_some_and(|op| op.kind().binds()));
        &args[..args.len().saturating_sub(bound)]
    }

    /// What `body` is made of, arguments before users, less the bodies of kernels in it: those are bound there.
    pub(crate) fn free_cone(&self, body: Value) -> Vec<Value> {
        let mut needed = vec![false; body.index() + 1];
        needed[body.index()] = true;
        let mut cone = vec![];
        for i in (0..needed.len()).rev() {
            if needed[i] {
                let v = Value(NodeIndex::new(i));
                for a in self.free_args(v) {
                    needed[a.index()] = true;
                }
                cone.push(v);
            }
        }
        cone.reverse();
        cone
    }

    /// The body with its free accumulators replaced: `acc i` by `by[i]`.
    ///
    /// # Errors
    /// When an accumulator has no replacement, or one of another type.
    pub fn substitute(&mut self, body: Value, by: &[Value]) -> Result<Value, TypeError> {
        let open = self.open();
        let mut made: HashMap<Value, Value> = HashMap::new();
        for v in self.free_cone(body) {
            if !open[v.index()] {
                made.insert(v, v);
                continue;
            }
            let Node::Op { op, args } = self.node(v).clone() else {
                continue;
            };
            let new = match &op {
                Op::Acc(acc) => {
                    let by = usize::try_from(acc.index).ok().and_then(|i| by.get(i));
                    match by {
                        Some(b) if *self.ty(*b) == acc.ty => *b,
                        _ => {
                            let types: Vec<Type> =
                                by.iter().map(|b| self.ty(**b).clone()).collect();
                            let why = format!("accumulator {} has type {}", acc.index, acc.ty);
                            return Err(crate::ops::refuse(op.kind().name(), why, &types));
                        }
                    }
                }
                _ => {
                    let bound = args.len() - usize::from(op.kind().binds());
                    let args: Vec<Value> = args
                        .iter()
                        .enumerate()
                        .map(|(i, a)| if i < bound { made[a] } else { *a })
                        .collect();
                    self.add(op, &args)?
                }
            };
            made.insert(v, new);
        }
        Ok(made[&body])
    }

    /// A copy of what the outputs need, with each op replaced by what `f` makes of it, given its value here and its arguments
    /// there. Every input is kept, in order.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn rebuild<E>(
        &self,
        f: impl FnMut(&mut Graph, Value, &Op, &[Value]) -> Result<Value, E>,
    ) -> Result<Graph, E> {
        self.retype(|_, ty| ty.clone(), f)
    }

    /// The same, with inputs of other types: `input` gives the type of one, from its role and the type that it had.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn retype<E>(
        &self,
        input: impl Fn(Role, &Type) -> Type,
        mut f: impl FnMut(&mut Graph, Value, &Op, &[Value]) -> Result<Value, E>,
    ) -> Result<Graph, E> {
        let mut out = Graph::new();
        let mut made: HashMap<Value, Value> = HashMap::new();
        for v in &self.inputs {
            if let Some((name, role)) = self.as_input(*v) {
                made.insert(*v, out.input(name.clone(), role, input(role, self.ty(*v))));
            }
        }
        for v in self.cone(&self.outputs) {
            if let Node::Op { op, args } = self.node(v) {
                let args: Vec<Value> = args.iter().map(|a| made[a]).collect();
                made.insert(v, f(&mut out, v, op, &args)?);
            }
        }
        out.outputs = self.outputs.iter().map(|o| made[o]).collect();
        Ok(out)
    }

    /// A copy in which every composite that `keep` does not want is expanded, to the fixed point.
    ///
    /// # Errors
    /// When an expansion does not type-check: a bug in an op.
    pub fn lower(&self, keep: impl Fn(&Op) -> bool) -> Result<Graph, TypeError> {
        let mut graph = self.rebuild(|g, _, op, args| g.add(op.clone(), args))?;
        loop {
            let mut changed = false;
            graph = graph.rebuild(|g, _, op, args| {
                if !keep(op)
                    && let Some(expanded) = op.expand(g, args)
                {
                    changed = true;
                    return expanded;
                }
                g.add(op.clone(), args)
            })?;
            if !changed {
                return Ok(graph);
            }
        }
    }
}

/// Equal when the outputs' terms and the signatures are equal; order of insertion and dead values do not matter.
impl PartialEq for Graph {
    fn eq(&self, o: &Graph) -> bool {
        let same_inputs = self.inputs.len() == o.inputs.len()
            && self
                .inputs
                .iter()
                .zip(&o.inputs)
                .all(|(a, b)| self.node(*a) == o.node(*b) && self.ty(*a) == o.ty(*b));
        if !same_inputs || self.outputs.len() != o.outputs.len() {
            return false;
        }
        let mut matched: HashMap<Value, Value> = HashMap::new();
        for (a, b) in self.inputs.iter().zip(&o.inputs) {
            matched.insert(*a, *b);
        }
        for v in self.cone(&self.outputs) {
            let Node::Op { op, args } = self.node(v) else {
                continue;
            };
            let node = Node::Op {
                op: op.clone(),
                args: args.iter().map(|a| matched[a]).collect(),
            };
            match o.seen.get(&node) {
                Some(w) => matched.insert(v, *w),
                None => return false,
            };
        }
        let outputs = self.outputs.iter().zip(&o.outputs);
        outputs.into_iter().all(|(a, b)| matched[a] == *b)
    }
}
impl Eq for Graph {}
