//! Extraction: one node for each class that the outputs need, so that the whole DAG is cheap. Greedy first (each
//! class has the set of kernels it needs, as in extraction-gym's faster-greedy-dag), then moves that greedy cannot
//! see: one class at a time, or all slices of a merged product together. Deterministic: integers, and the first of
//! equals.
//!
//! What comes out is in normal form, see [`super`]. Knows no rewrite.

use super::{
    cost::{Binding, CostModel},
    egraph::{EGraph, ENode, Known},
    work,
};
use egg::Id;
use ir::{Attr, Class, Graph, OpKind, Value, artifact::Work};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Rounds of improvement; each strictly lowers the cost, so this bounds time, not quality.
const ROUNDS: usize = 16;

/// The choice of a node for each class that can be computed.
pub struct Extraction<'a> {
    egraph: &'a EGraph,
    model: &'a dyn CostModel,
    at: &'a Binding,
    /// Nodes that may be chosen, for each class in order.
    options: BTreeMap<Id, Vec<&'a ENode>>,
    /// Classes with an option that takes this one.
    users: HashMap<Id, BTreeSet<Id>>,
    chosen: BTreeMap<Id, &'a ENode>,
}

/// What greedy knows of a class.
#[derive(Clone, Default)]
struct Plan {
    /// Cost of each kernel it needs, itself included.
    kernels: BTreeMap<Id, u64>,
    /// Work of a body.
    body: Work,
    /// Ranks alternatives; never below that of a child.
    rank: u64,
}

impl<'a> Extraction<'a> {
    /// Chooses nodes for the outputs. `shared` are classes that may be worth computing for several users, though
    /// none of them alone would.
    pub fn new(
        egraph: &'a EGraph,
        outputs: &[Id],
        shared: &[Id],
        model: &'a dyn CostModel,
        at: &'a Binding,
    ) -> Extraction<'a> {
        let mut extraction = Extraction {
            egraph,
            model,
            at,
            options: BTreeMap::new(),
            users: HashMap::new(),
            chosen: BTreeMap::new(),
        };
        extraction.find_options();
        extraction.chosen = extraction.greedy(&BTreeSet::new());
        let chosen = extraction.chosen.clone();
        let possible = |n: &&ENode| {
            n.split()
                .0
                .iter()
                .all(|a| chosen.contains_key(&egraph.find(*a)))
        };
        for options in extraction.options.values_mut() {
            options.retain(possible);
        }
        let roots: Vec<Id> = outputs.iter().map(|o| egraph.find(*o)).collect();
        extraction.share(&roots, shared.iter().map(|s| egraph.find(*s)).collect());
        extraction.improve(&roots);
        extraction
    }

    /// Whether the class can be computed.
    pub fn covers(&self, id: Id) -> bool {
        self.chosen.contains_key(&self.egraph.find(id))
    }

    /// Picoseconds of all kernels that the outputs need; `None` if one cannot be computed.
    pub fn cost(&self, outputs: &[Id]) -> Option<u64> {
        let mut tally = Tally::default();
        for root in outputs {
            self.count(self.egraph.find(*root), &mut tally)?;
        }
        Some(tally.total)
    }

    /// The outputs as a graph with the inputs of `like`; `None` if one cannot be computed.
    pub fn graph(&self, like: &Graph, outputs: &[Id]) -> Option<Graph> {
        let mut g = Graph::new();
        for v in like.inputs() {
            let (name, role) = like.as_input(*v)?;
            g.input(name.clone(), role, like.ty(*v).clone());
        }
        let mut built = HashMap::new();
        let outputs: Option<Vec<Value>> = outputs
            .iter()
            .map(|o| self.build(self.egraph.find(*o), &mut g, &mut built))
            .collect();
        g.outputs = outputs?;
        Some(g)
    }

    fn build(&self, id: Id, g: &mut Graph, built: &mut HashMap<Id, Value>) -> Option<Value> {
        if let Some(v) = built.get(&id) {
            return Some(*v);
        }
        let node = *self.chosen.get(&id)?;
        let v = match node {
            ENode::Input(name, role, ty) => g.input(name.clone(), *role, ty.clone()),
            ENode::Attr(_) => return None,
            ENode::Op(kind, _) => {
                let (args, attrs) = node.split();
                let args: Vec<Value> = args
                    .iter()
                    .map(|a| self.build(self.egraph.find(*a), g, built))
                    .collect::<Option<_>>()?;
                let attrs: Vec<Attr> = attrs
                    .iter()
                    .map(|a| self.egraph[*a].data.attr().cloned())
                    .collect::<Option<_>>()?;
                g.add(kind.build(&attrs)?, &args).ok()?
            }
        };
        built.insert(id, v);
        Some(v)
    }

    fn known(&self, id: Id) -> Option<&'a Known> {
        self.egraph[id].data.value()
    }

    /// Whether the normal form admits the node in its class.
    fn admits(&self, class: &Known, node: &ENode) -> bool {
        let all = |ids: &[Id], f: &dyn Fn(&Known) -> bool| {
            ids.iter().all(|a| self.known(*a).is_some_and(f))
        };
        let Some(kind) = node.kind() else {
            return matches!(node, ENode::Input(..));
        };
        let args = node.split().0;
        if class.weights_only {
            return all(args, &|k| k.weights_only);
        }
        match kind {
            OpKind::Acc => true,
            _ if class.open => match kind.class() {
                Class::Elementwise => true,
                Class::Rowwise => !self.joins_rows(node),
                // Of what the kernel loads: it is read in another order.
                _ => kind == OpKind::Transpose,
            },
            OpKind::Map => {
                let inner_sized = class.ty.shape.iter().skip(1).all(|d| d.known().is_some());
                inner_sized && all(&args[..1], &|k| !k.open)
            }
            OpKind::Gemm => {
                let [x, weights @ .., _] = args else {
                    return false;
                };
                all(&[*x], &|k| !k.open) && all(weights, &|k| k.weights_only)
            }
            OpKind::Attention | OpKind::Reshape | OpKind::Slice => true,
            _ => false,
        }
    }

    /// Whether the node concatenates along another axis than the last, which is not row-wise.
    fn joins_rows(&self, node: &ENode) -> bool {
        let rank = |a: &Id| self.known(*a).map(|k| k.ty.shape.len());
        let last = node
            .split()
            .0
            .first()
            .and_then(rank)
            .map(|r| r.saturating_sub(1));
        node.kind() == Some(OpKind::Concat) && self.axis(node) != last
    }

    /// The first attribute as an axis.
    fn axis(&self, node: &ENode) -> Option<usize> {
        match self.egraph[*node.split().1.first()?].data.attr()? {
            Attr::Int(axis) => usize::try_from(*axis).ok(),
            _ => None,
        }
    }

    fn find_options(&mut self) {
        let egraph = self.egraph;
        let mut ids: Vec<Id> = egraph.classes().map(|c| c.id).collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(known) = self.known(id) {
                let nodes = egraph[id].nodes.iter();
                let admitted: Vec<&ENode> = nodes.filter(|n| self.admits(known, n)).collect();
                for a in admitted.iter().flat_map(|n| n.split().0) {
                    let users = self.users.entry(egraph.find(*a)).or_default();
                    users.insert(id);
                }
                self.options.insert(id, admitted);
            }
        }
    }

    /// The cheapest node of each class, seen from that class alone, with the kernels of `paid` classes for nothing.
    fn greedy(&self, paid: &BTreeSet<Id>) -> BTreeMap<Id, &'a ENode> {
        let mut chosen = BTreeMap::new();
        let mut plans: HashMap<Id, Plan> = HashMap::new();
        let mut queue: VecDeque<Id> = self.options.keys().copied().collect();
        let mut queued: BTreeSet<Id> = queue.iter().copied().collect();
        while let Some(id) = queue.pop_front() {
            queued.remove(&id);
            let mut better = false;
            for node in &self.options[&id] {
                let Some(plan) = self.plan(id, node, &plans, paid) else {
                    continue;
                };
                if plans.get(&id).is_none_or(|old| plan.rank < old.rank) {
                    plans.insert(id, plan);
                    chosen.insert(id, *node);
                    better = true;
                }
            }
            if better {
                for parent in self.users.get(&id).into_iter().flatten() {
                    if queued.insert(*parent) {
                        queue.push_back(*parent);
                    }
                }
            }
        }
        chosen
    }

    /// Computes shared classes, and products that several values are slices of, once for all their users where that
    /// is cheaper in the end: greedy again, as if they were paid for, first all together, then with each one added or
    /// left out.
    fn share(&mut self, roots: &[Id], shared: BTreeSet<Id>) {
        let Some(mut best) = self.cost(roots) else {
            return;
        };
        let wholes: Vec<Id> = self.bundles().into_keys().collect();
        let shared: BTreeSet<Id> = shared.into_iter().chain(wholes.clone()).collect();
        let each = shared.iter().map(|id| BTreeSet::from([*id]));
        // One product may take another's place.
        let pairs = wholes.iter().enumerate().flat_map(|(i, a)| {
            let others = wholes[..i].iter();
            others.map(move |b| BTreeSet::from([*a, *b]))
        });
        let moves = std::iter::once(shared.clone()).chain(each).chain(pairs);
        let moves: Vec<BTreeSet<Id>> = moves.collect();
        let mut paid = BTreeSet::new();
        for _ in 0..ROUNDS {
            let before = best;
            for toggled in &moves {
                let trial: BTreeSet<Id> = paid.symmetric_difference(toggled).copied().collect();
                let greedy = self.greedy(&trial);
                let old = std::mem::replace(&mut self.chosen, greedy);
                match self.cost(roots) {
                    Some(cost) if cost < best => (best, paid) = (cost, trial),
                    _ => self.chosen = old,
                }
            }
            if best == before {
                return;
            }
        }
    }

    fn plan(
        &self,
        id: Id,
        node: &ENode,
        plans: &HashMap<Id, Plan>,
        paid: &BTreeSet<Id>,
    ) -> Option<Plan> {
        let known = self.known(id)?;
        let args = node.split().0;
        let children: Vec<&Plan> = args
            .iter()
            .map(|a| plans.get(&self.egraph.find(*a)))
            .collect::<Option<_>>()?;
        if known.weights_only {
            // Free, but the smallest term is the one to evaluate.
            let rank = children
                .iter()
                .fold(1, |r: u64, c| r.saturating_add(c.rank));
            return Some(Plan {
                rank,
                ..Plan::default()
            });
        }
        let mut plan = Plan::default();
        for (a, child) in args.iter().zip(&children) {
            let weight = self.known(*a).is_some_and(|k| k.weights_only);
            for (kernel, cost) in child.kernels.iter().filter(|_| !weight) {
                let seen = plan.kernels.entry(*kernel).or_insert(0);
                *seen = (*seen).max(*cost);
            }
        }
        if plan.kernels.contains_key(&id) {
            // A class that needs itself is never computed.
            return None;
        }
        let bodies = |a: Id| plans.get(&self.egraph.find(a)).map(|p| p.body);
        let work = self.work(known, node, &bodies)?;
        let mut own = 0;
        if known.open {
            plan.body = work;
            own = self.model.kernel(&work);
        } else if node.kind().is_some_and(super::egraph::is_kernel) {
            plan.kernels.insert(id, self.model.kernel(&work));
        }
        plan.rank = plan.kernels.values().fold(own, |s, c| s.saturating_add(*c));
        if paid.contains(&id) && !known.open {
            // Seen from here it costs what it costs; users get it for nothing. See `Plan::rank`.
            plan.kernels.values_mut().for_each(|cost| *cost = 0);
        }
        Some(plan)
    }

    fn bytes(&self, known: &Known) -> u64 {
        known.storage.bytes(self.at.size(&known.ty.numel()))
    }

    /// Bytes of `known` at the rows that a kernel of `rows` rows touches.
    fn touched(&self, known: &Known, rows: u64) -> u64 {
        let own = known.ty.shape.first().map_or(1, |d| self.at.size(d));
        (self.bytes(known) / own.max(1)).saturating_mul(own.min(rows))
    }

    /// Work of a kernel with its body, or of a body up to this node; `body` gives that of an argument.
    fn work(&self, known: &Known, node: &ENode, body: &dyn Fn(Id) -> Option<Work>) -> Option<Work> {
        let ENode::Op(kind, _) = node else {
            return Some(Work::default());
        };
        if !known.open && !super::egraph::is_kernel(*kind) {
            return Some(Work::default());
        }
        let (args, attrs) = node.split();
        let facts: Vec<&Known> = args.iter().map(|a| self.known(*a)).collect::<Option<_>>()?;
        let attrs: Vec<Attr> = attrs
            .iter()
            .map(|a| self.egraph[*a].data.attr().cloned())
            .collect::<Option<_>>()?;
        let mut work = work::work(&kind.build(&attrs)?, &facts, &known.ty, self.at);
        for (i, (a, fact)) in args.iter().zip(&facts).enumerate() {
            if fact.open {
                let body = body(*a)?;
                work.weights = work.weights.saturating_add(body.weights);
                work.values = work.values.saturating_add(body.values);
                work.flops = work.flops.saturating_add(body.flops);
                continue;
            }
            let bytes = match fact.weights_only {
                true => &mut work.weights,
                false => &mut work.values,
            };
            *bytes = bytes.saturating_add(match kind {
                OpKind::Map => {
                    let rows = known.ty.shape.first().map_or(1, |d| self.at.size(d));
                    self.touched(fact, rows)
                }
                // The rows that stay are not touched.
                OpKind::Scatter if i == 0 => 0,
                _ => self.bytes(fact),
            });
        }
        if super::egraph::is_kernel(*kind) {
            let rows = facts[0].ty.shape.first().map_or(1, |d| self.at.size(d));
            let written = match kind {
                OpKind::Map => self.touched(known, rows),
                _ => self.bytes(known),
            };
            work.values = work.values.saturating_add(written);
        }
        Some(work)
    }

    /// Adds the kernels that a class needs; `None` on a cycle or where nothing is chosen.
    fn count(&self, id: Id, tally: &mut Tally) -> Option<Work> {
        if let Some(done) = tally.done.get(&id) {
            return *done;
        }
        let (known, node) = (self.known(id)?, *self.chosen.get(&id)?);
        if known.weights_only {
            return Some(Work::default());
        }
        tally.done.insert(id, None);
        let mut bodies: HashMap<Id, Work> = HashMap::new();
        for a in node.split().0 {
            let a = self.egraph.find(*a);
            bodies.insert(a, self.count(a, tally)?);
        }
        let work = self.work(known, node, &|a| bodies.get(&self.egraph.find(a)).copied())?;
        if !known.open && node.kind().is_some_and(super::egraph::is_kernel) {
            let cost = self.model.kernel(&work);
            tally.total = tally.total.saturating_add(cost);
        }
        tally.done.insert(id, Some(work));
        Some(work)
    }

    fn improve(&mut self, roots: &[Id]) {
        let Some(mut best) = self.cost(roots) else {
            return;
        };
        for _ in 0..ROUNDS {
            let before = best;
            for bundle in self.bundles().into_values() {
                let moves: Vec<(Id, &ENode)> = bundle.into_iter().collect();
                self.try_moves(&moves, roots, &mut best);
            }
            for id in self.reached(roots) {
                for node in self.options[&id].clone() {
                    self.try_moves(&[(id, node)], roots, &mut best);
                }
            }
            if best == before {
                return;
            }
        }
    }

    /// Makes the moves if that lowers the cost.
    fn try_moves(&mut self, moves: &[(Id, &'a ENode)], roots: &[Id], best: &mut u64) {
        let mut undo = vec![];
        for (id, node) in moves {
            undo.extend(self.chosen.insert(*id, node).map(|old| (*id, old)));
        }
        match self.cost(roots) {
            Some(cost) if cost < *best => *best = cost,
            _ => self.chosen.extend(undo),
        }
    }

    /// For each value of which several classes are slices: those classes, each with its slice.
    fn bundles(&self) -> BTreeMap<Id, BTreeMap<Id, &'a ENode>> {
        let mut bundles: BTreeMap<Id, BTreeMap<Id, &'a ENode>> = BTreeMap::new();
        for (id, options) in &self.options {
            for node in options.iter().filter(|n| n.kind() == Some(OpKind::Slice)) {
                let whole = self.egraph.find(node.split().0[0]);
                if self.known(whole).is_some_and(|k| !k.weights_only) {
                    bundles.entry(whole).or_default().insert(*id, node);
                }
            }
        }
        bundles.retain(|_, slices| slices.len() > 1);
        bundles
    }

    /// The classes that the roots need, by the present choice.
    fn reached(&self, roots: &[Id]) -> Vec<Id> {
        let (mut seen, mut todo) = (BTreeSet::new(), roots.to_vec());
        while let Some(id) = todo.pop() {
            if seen.insert(id) {
                let args = self.chosen.get(&id).map_or(&[][..], |n| n.split().0);
                todo.extend(args.iter().map(|a| self.egraph.find(*a)));
            }
        }
        let data = |id: &Id| self.known(*id).is_some_and(|k| !k.weights_only);
        seen.into_iter().filter(data).collect()
    }
}

/// Sum over a DAG in progress.
#[derive(Default)]
struct Tally {
    total: u64,
    /// Work of each class visited; `None` while its arguments are.
    done: HashMap<Id, Option<Work>>,
}
