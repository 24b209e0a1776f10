//! Derivations: the uses of rules by which a graph became another, as egg proves it (Flatt et al. 2022, Small Proofs from
//! Congruence Closure). Each step shows the term that it changed and no more. Runs the rules again with explanations, which
//! cost memory; does not choose what is derived.

use super::{
    Limits,
    egraph::{EGraph, ENode, load},
    fired, rules, runner,
};
use egg::{Id, Language, Symbol, TreeTerm};
use indexmap::IndexSet;
use ir::{Graph, TypeError, Value};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    rc::Rc,
};

/// One use of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name; `definition` where a composite is replaced by its expansion.
    pub rule: String,
    /// Whether `left` was made of `right`: the proof goes against the rule.
    pub backwards: bool,
    /// The value that both sides compute, where the graph has it.
    pub value: Option<String>,
    /// What was there; values of the graph that do not change stand by their names.
    pub left: String,
    /// What is there now.
    pub right: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)?;
        if let Some(value) = &self.value {
            write!(f, ", for {value}")?;
        }
        let arrow = if self.backwards { "<=" } else { "=>" };
        write!(f, "\n     {}\n  {arrow} {}", self.left, self.right)
    }
}

/// How one graph became another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// Each once, however many places it changed.
    pub steps: Vec<Step>,
    /// How often each rule said something new meanwhile, needed or not.
    pub fired: BTreeMap<String, usize>,
}

/// The derivation of one graph from the other, and the e-graph in which they are equal. `names` are of values of the first graph. `None` if within the limits the rules do not show that they are equal.
///
/// # Errors
/// When an expansion does not type-check.
pub fn derive<'a>(
    from: &Graph,
    to: &Graph,
    names: &HashMap<Value, String>,
    limits: &Limits,
    rewrites: impl Iterator<Item = &'a rules::Rewrite>,
) -> Result<Option<(Derivation, EGraph)>, TypeError> {
    let mut egraph = EGraph::default().with_explanations_enabled();
    let start = load(&mut egraph, from)?;
    let runner = runner(egraph, limits).run(rewrites);
    let (fired, mut egraph) = (fired(&runner), runner.egraph);
    let end = load(&mut egraph, to)?;
    let ends = from.outputs.iter().zip(&to.outputs);
    let ends: Vec<(Id, Id)> = ends.map(|(a, b)| (start[a], end[b])).collect();
    if ends.iter().any(|(a, b)| egraph.find(*a) != egraph.find(*b)) {
        return Ok(None);
    }
    let explained = ends.iter();
    let proofs: Vec<_> = explained
        .map(|(a, b)| egraph.explain_id_equivalence(*a, *b).explanation_trees)
        .collect();
    let mut labels: HashMap<Id, String> = HashMap::new();
    for v in from.cone(&from.outputs) {
        if let (Some(_), Some(name)) = (from.op(v), names.get(&v)) {
            let known = labels.entry(egraph.find(start[&v]));
            known.or_insert_with(|| name.clone());
        }
    }
    let mut walk = Walk {
        terms: Terms {
            egraph: &egraph,
            labels,
            nodes: IndexSet::new(),
            classes: vec![],
            given: BTreeSet::new(),
        },
        ends: HashMap::new(),
        walked: HashSet::new(),
        steps: vec![],
    };
    let mut given: Vec<Id> = start.values().copied().collect();
    given.sort_unstable();
    for id in given {
        let term = walk.terms.load(id);
        walk.terms.given.insert(term);
    }
    for proof in &proofs {
        walk.proof(proof);
    }
    let steps = walk.steps;
    Ok(Some((Derivation { steps, fired }, egraph)))
}

/// A term among [`Terms`].
type Term = usize;
type Tree = TreeTerm<ENode>;

/// Terms, each once: children are terms.
struct Terms<'a> {
    egraph: &'a EGraph,
    /// Names of classes.
    labels: HashMap<Id, String>,
    nodes: IndexSet<ENode>,
    classes: Vec<Option<Id>>,
    /// Those of the graph.
    given: BTreeSet<Term>,
}

/// Terms of more ops than this are cut short where they do not change.
const SHOWN: usize = 8;

impl Terms<'_> {
    fn add(&mut self, node: &ENode, children: &[Term]) -> Term {
        let mut child = children.iter();
        let node = node
            .clone()
            .map_children(|_| Id::from(child.next().copied().unwrap_or_default()));
        let (term, new) = self.nodes.insert_full(node.clone());
        if new {
            let classes = node.children().iter();
            let classes: Option<Vec<Id>> = classes.map(|c| self.classes[usize::from(*c)]).collect();
            let class = classes.and_then(|classes| {
                let mut class = classes.into_iter();
                self.egraph
                    .lookup(node.map_children(|c| class.next().unwrap_or(c)))
            });
            self.classes.push(class);
        }
        term
    }

    /// The term that was added to the e-graph under that id.
    fn load(&mut self, id: Id) -> Term {
        let node = self.egraph.id_to_node(id);
        let children: Vec<Term> = node.children().iter().map(|c| self.load(*c)).collect();
        self.add(node, &children)
    }

    fn children(&self, term: Term) -> impl Iterator<Item = Term> {
        self.nodes[term].children().iter().map(|c| usize::from(*c))
    }

    fn label(&self, term: Term) -> Option<&String> {
        self.labels.get(&self.classes[term]?)
    }

    /// The term and all that it consists of.
    fn parts(&self, term: Term) -> BTreeSet<Term> {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![term]);
        while let Some(term) = todo.pop() {
            if seen.insert(term) {
                todo.extend(self.children(term));
            }
        }
        seen
    }

    /// The term; parts that are `named` stand by their names where the graph has them, and else are short.
    fn write(&self, term: Term, named: &BTreeSet<Term>, out: &mut String) {
        let node = &self.nodes[term];
        if node.kind().is_none() {
            out.push_str(&node.to_string());
            return;
        }
        if named.contains(&term) {
            if let Some(label) = self.label(term) {
                out.push_str(label);
                return;
            }
            let ops = self.parts(term).into_iter();
            if ops.filter(|t| self.nodes[*t].kind().is_some()).count() > SHOWN {
                out.push_str(&format!("({node} ..)"));
                return;
            }
        }
        out.push_str(&format!("({node}"));
        for child in self.children(term) {
            out.push(' ');
            self.write(child, named, out);
        }
        out.push(')');
    }
}

/// A proof on its way to steps. Parts of proofs are shared, so that each is walked once.
struct Walk<'a> {
    terms: Terms<'a>,
    /// First and last term of each part.
    ends: HashMap<(*const Tree, bool), Term>,
    walked: HashSet<*const Tree>,
    steps: Vec<Step>,
}

impl Walk<'_> {
    fn proof(&mut self, proof: &[Rc<Tree>]) {
        let mut before = None;
        for part in proof {
            let here = self.end(part, false);
            let rule = part.forward_rule.or(part.backward_rule);
            if let (Some(rule), Some(before)) = (rule, before) {
                self.step(rule, part.backward_rule.is_some(), before, here);
            }
            if self.walked.insert(Rc::as_ptr(part)) {
                part.child_proofs.iter().for_each(|child| self.proof(child));
            }
            before = Some(self.end(part, true));
        }
    }

    /// The first or the last term of a part of a proof.
    fn end(&mut self, part: &Rc<Tree>, last: bool) -> Term {
        let key = (Rc::as_ptr(part), last);
        if let Some(term) = self.ends.get(&key) {
            return *term;
        }
        let children = part.child_proofs.iter();
        let children: Vec<Term> = children
            .filter_map(|child| if last { child.last() } else { child.first() })
            .map(|child| self.end(child, last))
            .collect();
        let term = self.terms.add(&part.node, &children);
        self.ends.insert(key, term);
        term
    }

    fn step(&mut self, rule: Symbol, backwards: bool, left: Term, right: Term) {
        let (l, r) = (self.terms.parts(left), self.terms.parts(right));
        let mut named: BTreeSet<Term> = l.intersection(&r).copied().collect();
        // What the rule brought in of the graph.
        let made = if backwards { l } else { r };
        named.extend(made.intersection(&self.terms.given));
        named.retain(|t| *t != left && *t != right);
        let text = |term| {
            let mut text = String::new();
            self.terms.write(term, &named, &mut text);
            text
        };
        let step = Step {
            rule: rules::name_of(rule.as_str()).into(),
            backwards,
            value: self.terms.label(right).cloned(),
            left: text(left),
            right: text(right),
        };
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }
}
