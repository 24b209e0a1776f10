//! Composite ops are recognised by their expansion: matched loosely on the e-graph, any attribute for any attribute,
//! then verified by expanding the op anew with the attributes found. A new composite needs a line in
//! [`COMPOSITES`], or none if it has no attributes and takes tensors of one type.

use super::{Conclusion, Finds, Form, Refusal, Rule};
use crate::optimize::{
    egraph::{EGraph, ENode, Fact, Facts, Tag, add_op, expansion},
    term::{Term, commutative, var},
};
use egg::{Id, SearchMatches, Searcher, Subst, Symbol, Var};
use ir::{Attr, Graph, Node, Op, OpKind, Type, Value};
use std::collections::HashMap;

/// An application of each composite: the term, and an example of its variables. An attribute that the expansion shows
/// has a value that nothing else in it has.
const COMPOSITES: &[(&str, &str)] = &[
    ("(sigmoid ?x)", "x: f32[T,8]"),
    ("(silu ?x)", "x: f32[T,8]"),
    ("(relu ?x)", "x: f32[T,8]"),
    ("(gelu ?x)", "x: f32[T,8]"),
    ("(gelu_tanh ?x)", "x: f32[T,8]"),
    ("(swiglu ?x ?y)", "x: f32[T,8]; y: f32[T,8]"),
    ("(softmax ?x)", "x: f32[T,8]"),
    ("(rms_norm ?x ?eps)", "x: f32[T,8]; eps = 0.1234"),
    ("(layer_norm ?x ?eps)", "x: f32[T,8]; eps = 0.1234"),
    (
        "(rope ?x ?cos ?sin)",
        "x: f32[T,2,8]; cos: f32[T,1,4]; sin: f32[T,1,4]",
    ),
    (
        "(rope ?x ?cos ?sin)",
        "x: f32[T,2,8]; cos: f32[T,1,2]; sin: f32[T,1,2]",
    ),
    ("(linear ?x ?w)", "x: f32[T,8]; w: weight f32[4,8]"),
    (
        "(attention ?q ?k ?v ?lo ?hi ?s ?cap)",
        "q: f32[T,4,8]; k: f32[R,2,8]; v: f32[R,2,8]; lo: i32[T] in 0..R; hi: i32[T] in lo..R; s = 0.1234; cap = 0.0",
    ),
    (
        "(attention ?q ?k ?v ?lo ?hi ?s ?cap)",
        "q: f32[T,4,8]; k: f32[R,2,8]; v: f32[R,2,8]; lo: i32[T] in 0..R; hi: i32[T] in lo..R; s = 0.1234; cap = 3.21",
    ),
    (
        "(attention ?q ?k ?v ?lo ?hi ?s ?cap)",
        "q: f32[T,4,8]; k: f32[R,4,8]; v: f32[R,4,8]; lo: i32[T] in 0..R; hi: i32[T] in lo..R; s = 0.1234; cap = 0.0",
    ),
];

pub fn rules() -> Vec<Rule> {
    let mut all: Vec<Rule> = vec![];
    for (term, example) in COMPOSITES {
        let Ok(Term::Op(kind, _)) = Term::parse(term) else {
            continue;
        };
        let before = all
            .iter()
            .filter(|r| r.finds == Finds::Expansion(kind))
            .count();
        let suffix = if before == 0 {
            String::new()
        } else {
            format!("-{}", before + 1)
        };
        all.push(Rule {
            theme: "composites",
            name: format!("recognise-{}{suffix}", kind.name()),
            lhs: (*term).into(),
            rhs: (*term).into(),
            guard: String::new(),
            example: (*example).into(),
            finds: Finds::Expansion(kind),
        });
    }
    all
}

/// The recognition as an egg rewrite.
pub fn compile(rule: &Rule, kind: OpKind) -> Result<Form, String> {
    let Term::Op(_, terms) = Term::parse(&rule.rhs)? else {
        return Err("the right side is no op".into());
    };
    let (args, attrs) = terms.split_at(terms.len() - kind.attr_names().len());
    let declared = declarations(&rule.example);
    let literal = |t: &Term| -> Result<Attr, String> {
        let name = t.vars().first().copied().unwrap_or_default().to_string();
        let text = declared
            .get(&*name)
            .ok_or(format!("?{name} has no example"))?;
        let mut words = text.split(' ').map(crate::optimize::term::attr);
        words
            .find_map(Result::ok)
            .ok_or(format!("`{text}` declares nothing"))
    };
    let types = args
        .iter()
        .map(|a| Type::try_from(literal(a)?).map_err(|a| format!("{a} is no type")));
    let types: Vec<Type> = types.collect::<Result<_, _>>()?;
    let example: Vec<Attr> = attrs.iter().map(literal).collect::<Result<_, _>>()?;
    let op = kind
        .build(&example)
        .ok_or("the example's attributes are of other kinds")?;
    let (graph, root) = expansion(&op, &types)
        .ok_or("the op is a primitive")?
        .map_err(|e| e.to_string())?;
    // An attribute is read where the example's value of it stands in the expansion.
    let place = |a: &Attr| {
        graph.values().find_map(|v| {
            let position = graph.op(v)?.attrs().iter().position(|b| a == b)?;
            Some((v, position))
        })
    };
    let names = |terms: &[Term]| -> Vec<Var> {
        terms
            .iter()
            .flat_map(|t| t.vars().into_iter().map(var).collect::<Vec<_>>())
            .collect()
    };
    let attrs: Vec<Attribute> = names(attrs)
        .into_iter()
        .zip(example)
        .map(|(var, example)| Attribute {
            var,
            place: place(&example),
            example,
        })
        .collect();
    let build = Recognised {
        kind,
        args: names(args),
        attrs: attrs.clone(),
    };
    let search = Expansion {
        graph,
        root,
        args: names(args),
        attrs,
    };
    Form::new(&rule.name, search, build)
}

/// `x: type` and `a = value` of an example, by name.
fn declarations(example: &str) -> HashMap<&str, &str> {
    let parts = example.split(';').filter_map(|p| p.split_once([':', '=']));
    parts.map(|(n, v)| (n.trim(), v.trim())).collect()
}

/// An attribute of the op.
#[derive(Clone)]
struct Attribute {
    var: Var,
    /// Value of the expansion and index among its attributes; `None` where the expansion does not show it.
    place: Option<(Value, usize)>,
    /// What it is where the expansion does not show it.
    example: Attr,
}

/// Finds classes that hold an expansion, whatever its attributes.
struct Expansion {
    graph: Graph,
    root: Value,
    args: Vec<Var>,
    attrs: Vec<Attribute>,
}

/// What a partial match has bound.
#[derive(Clone, Default)]
struct Bound {
    values: HashMap<Value, Id>,
    attrs: HashMap<(Value, usize), Id>,
}

impl Expansion {
    fn solve(
        &self,
        egraph: &EGraph,
        mut todo: Vec<(Value, Id)>,
        mut bound: Bound,
        found: &mut Vec<Bound>,
    ) {
        let Some((v, id)) = todo.pop() else {
            found.push(bound);
            return;
        };
        let id = egraph.find(id);
        if let Some(seen) = bound.values.get(&v) {
            if *seen == id {
                self.solve(egraph, todo, bound, found);
            }
            return;
        }
        bound.values.insert(v, id);
        let Node::Op { op, args } = self.graph.node(v) else {
            if egraph[id].data.value().is_some() {
                self.solve(egraph, todo, bound, found);
            }
            return;
        };
        for node in &egraph[id].nodes {
            let (ids, attrs) = node.split();
            if node.kind() != Some(op.kind()) || ids.len() != args.len() {
                continue;
            }
            let mut bound = bound.clone();
            bound
                .attrs
                .extend(attrs.iter().enumerate().map(|(i, a)| ((v, i), *a)));
            let mut with = |ids: &mut dyn Iterator<Item = Id>| {
                let mut todo = todo.clone();
                todo.extend(args.iter().copied().zip(ids));
                self.solve(egraph, todo, bound.clone(), found);
            };
            with(&mut ids.iter().copied());
            if commutative(op.kind()) && ids[0] != ids[1] {
                with(&mut ids.iter().rev().copied());
            }
        }
    }
}

impl Searcher<ENode, Facts> for Expansion {
    fn search_with_limit(&self, egraph: &EGraph, limit: usize) -> Vec<SearchMatches<'_, ENode>> {
        let kind = self.graph.op(self.root).map(Op::kind);
        let classes = kind.and_then(|k| egraph.classes_for_op(&Tag::Op(k)));
        let classes = classes.into_iter().flatten();
        classes
            .filter_map(|c| self.search_eclass_with_limit(egraph, c, limit))
            .collect()
    }

    fn search_eclass_with_limit(
        &self,
        egraph: &EGraph,
        class: Id,
        limit: usize,
    ) -> Option<SearchMatches<'_, ENode>> {
        let mut found = vec![];
        self.solve(
            egraph,
            vec![(self.root, class)],
            Bound::default(),
            &mut found,
        );
        let mut substs: Vec<Subst> = vec![];
        for bound in found {
            let mut subst = Subst::default();
            for (v, input) in self.args.iter().zip(self.graph.inputs()) {
                subst.insert(*v, *bound.values.get(input)?);
            }
            for attr in &self.attrs {
                if let Some(place) = attr.place {
                    subst.insert(attr.var, *bound.attrs.get(&place)?);
                }
            }
            if !substs.contains(&subst) {
                substs.push(subst);
            }
        }
        substs.truncate(limit);
        (!substs.is_empty()).then_some(SearchMatches {
            eclass: class,
            substs,
            ast: None,
        })
    }

    fn vars(&self) -> Vec<Var> {
        let read = self.attrs.iter().filter(|a| a.place.is_some());
        self.args
            .iter()
            .copied()
            .chain(read.map(|a| a.var))
            .collect()
    }
}

/// Adds the op where its expansion, with the attributes found, is in the class.
struct Recognised {
    kind: OpKind,
    args: Vec<Var>,
    attrs: Vec<Attribute>,
}

impl Conclusion for Recognised {
    fn conclude(
        &self,
        egraph: &mut EGraph,
        class: Id,
        subst: &Subst,
        rule: Symbol,
    ) -> Result<Vec<Id>, Refusal> {
        let (op, args) = self.read(egraph, subst).ok_or(Refusal::Untyped)?;
        let expanded = self.verified(egraph, class, &op, &args);
        let left = expanded.ok_or(Refusal::Lacks(
            "with the attributes found, its expansion is another",
        ))?;
        let right = add_op(egraph, &op, &args);
        let news = egraph.union_trusted(left, right, rule);
        Ok(news.then_some(class).into_iter().collect())
    }
}

impl Recognised {
    /// The op and its arguments as matched; `None` if they do not type-check.
    fn read(&self, egraph: &EGraph, subst: &Subst) -> Option<(Op, Vec<Id>)> {
        let args: Vec<Id> = self
            .args
            .iter()
            .map(|v| subst.get(*v).copied())
            .collect::<Option<_>>()?;
        let attrs = self.attrs.iter().map(|a| match a.place {
            Some(_) => egraph[*subst.get(a.var)?].data.attr().cloned(),
            None => Some(a.example.clone()),
        });
        let op = self.kind.build(&attrs.collect::<Option<Vec<Attr>>>()?)?;
        let facts: Vec<_> = args
            .iter()
            .filter_map(|a| egraph[*a].data.value())
            .collect();
        Fact::of(&op, &facts).ok()?;
        Some((op, args))
    }

    /// The op's expansion, if the class holds it.
    fn verified(&self, egraph: &mut EGraph, class: Id, op: &Op, args: &[Id]) -> Option<Id> {
        let types = args
            .iter()
            .map(|a| egraph[*a].data.value().map(|k| k.ty.clone()));
        let types: Vec<Type> = types.collect::<Option<_>>()?;
        let (graph, root) = expansion(op, &types)?.ok()?;
        let expanded = find(egraph, &graph, root, args)?;
        (egraph.find(expanded) == egraph.find(class)).then_some(expanded)
    }
}

/// A graph's value, up to the order of commutative ops' arguments; `None` if no class holds it.
fn find(egraph: &mut EGraph, graph: &Graph, root: Value, args: &[Id]) -> Option<Id> {
    let mut ids: HashMap<Value, Id> = graph
        .inputs()
        .iter()
        .copied()
        .zip(args.iter().copied())
        .collect();
    for v in graph.cone(&[root]) {
        let Node::Op { op, args } = graph.node(v) else {
            continue;
        };
        let args: Vec<Id> = args.iter().map(|a| ids[a]).collect();
        let attrs: Vec<Id> = op
            .attrs()
            .into_iter()
            .map(|a| egraph.lookup(ENode::Attr(a)))
            .collect::<Option<_>>()?;
        let node = |args: &[Id]| ENode::Op(op.kind(), [args, &attrs].concat().into());
        let turned: Vec<Id> = args.iter().rev().copied().collect();
        let mut orders = vec![node(&args)];
        orders.extend(commutative(op.kind()).then(|| node(&turned)));
        let known = |node: &ENode| egraph.lookup(node.clone()).is_some();
        let found = orders.into_iter().find(known)?;
        ids.insert(v, egraph.add_uncanonical(found));
    }
    ids.get(&root).copied()
}
