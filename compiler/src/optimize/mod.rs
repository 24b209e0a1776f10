//! The optimizer: a graph in, an equal graph of few kernels out, by equality saturation (arXiv 2004.03082). The rules
//! say what is equal, the cost model what is cheap; this file only runs them. Never looks at time, so that the same
//! input gives the same output.
//!
//! **Normal form** of what comes out: every op that is not computed from weights alone and is not in a body is a
//! `map`, a `gemm` whose weights are, an `attention`, or a view (`reshape`, `slice`) of one or of an
//! input. Bodies hold elementwise and row-wise ops over `acc`, closed values and literals; a gemm's body elementwise
//! ops alone. Terms of weights alone are arbitrary: they are evaluated at compile time.

pub mod ablation;
pub mod cost;
pub mod derivation;
pub mod egraph;
mod extract;
pub mod rules;
pub mod term;
pub mod verdict;
mod work;

use ablation::Ablation;
use cost::{Binding, CostModel, Roofline};
use derivation::{Derivation, derive};
use egg::{Runner, SimpleScheduler, StopReason};
use extract::Extraction;
use indexmap::IndexMap;
use ir::{Graph, Name, Program, Type, TypeError, Value};
use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
    time::Duration,
};
use verdict::{Verdict, verdicts};

/// What to optimize for, and how long to try.
#[derive(Debug)]
pub struct Options {
    /// Sizes at which alternatives are compared: one token for decoding, 128 for an encoder.
    pub sizes: Binding,
    /// What kernels cost on the target.
    pub cost: Box<dyn CostModel>,
    /// How far rewriting goes.
    pub limits: Limits,
    /// Rules that it goes without.
    pub without: Ablation,
}

impl Options {
    /// A generic processor at the given sizes of symbols.
    pub fn at<'a>(sizes: impl IntoIterator<Item = (&'a str, u32)>) -> Options {
        Options {
            sizes: Binding::new(sizes),
            cost: Box::new(Roofline::default()),
            limits: Limits::default(),
            without: Ablation::default(),
        }
    }
}

/// Why rewriting stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// No rule finds anything new: all that the rules can say is known.
    Saturated,
    /// [`Limits::nodes`] was reached.
    Nodes,
    /// [`Limits::iterations`] was reached.
    Iterations,
}

/// What the optimizer did to one graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// E-nodes in the end.
    pub nodes: usize,
    /// E-classes in the end.
    pub classes: usize,
    /// Rounds of rewriting.
    pub iterations: usize,
    /// Why it stopped.
    pub stop: Stop,
    /// How often each rule said something new, for every rule; zero for those that did not fire.
    pub fired: BTreeMap<String, usize>,
    /// Picoseconds predicted with one kernel an op.
    pub before: u64,
    /// Picoseconds predicted for the result.
    pub after: u64,
}

/// Reports by graph, in the program's order.
pub type Reports = IndexMap<Name, Report>;

/// Why there is no optimized graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OptimizeError {
    /// An op's expansion does not type-check.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// No kernel computes a value.
    #[error(
        "graph {graph}: no kernel computes value {value}, {op} of {args:?}: \
         give it as a weight, or write it with ops that kernels cover (see the optimizer's normal form)"
    )]
    NoKernel {
        /// The graph; empty if it has no name.
        graph: String,
        /// Index of the value.
        value: usize,
        /// Its op.
        op: &'static str,
        /// Types of its arguments.
        args: Vec<Type>,
    },
}

/// The rules, each as egg runs it.
static REWRITES: LazyLock<Vec<(rules::Rule, Vec<rules::Form>)>> = LazyLock::new(|| {
    let compile = |r: rules::Rule| {
        let forms = r.forms().expect("the tests compile every rule");
        (r, forms)
    };
    rules::all().into_iter().map(compile).collect()
});

/// What egg runs of the rules that are wanted.
fn rewrites(
    wanted: impl Fn(&rules::Rule) -> bool,
) -> impl Iterator<Item = &'static rules::Rewrite> {
    let wanted = REWRITES.iter().filter(move |(rule, _)| wanted(rule));
    wanted.flat_map(|(_, forms)| forms.iter().map(|f| &f.rewrite))
}

/// The graph with each composite that is written out replaced by its op, and for each new value the old one. A
/// composite is as cheap as its expansion in any kernel's body, and fusing an expansion op by op has exponentially many
/// ways to do it.
///
/// # Errors
/// When an expansion does not type-check.
pub fn recognise(
    g: &Graph,
    without: &Ablation,
) -> Result<(Graph, HashMap<Value, Value>), TypeError> {
    let mut egraph = egraph::EGraph::default();
    let ids = egraph::load(&mut egraph, g)?;
    let wanted =
        |r: &rules::Rule| matches!(r.finds, rules::Finds::Expansion(_)) && !without.leaves_out(r);
    let runner = runner(egraph, &Limits::default());
    let egraph = runner.run(rewrites(wanted)).egraph;
    let (mut out, mut made, mut origin) = (Graph::new(), HashMap::new(), HashMap::new());
    for v in g.inputs() {
        if let Some((name, role)) = g.as_input(*v) {
            let new = out.input(name.clone(), role, g.ty(*v).clone());
            origin.insert(new, *v);
            if let Some(id) = ids.get(v) {
                made.insert(egraph.find(*id), new);
            }
        }
    }
    // Arguments of a composite are arguments of its expansion's nodes: already made when its turn comes.
    for v in g.cone(&g.outputs) {
        let id = egraph.find(ids[&v]);
        let Some(op) = g.op(v).filter(|_| !made.contains_key(&id)) else {
            continue;
        };
        let args: Option<Vec<Value>> = g
            .args(v)
            .iter()
            .map(|a| made.get(&egraph.find(ids[a])).copied())
            .collect();
        let composite = egraph::composite(&egraph, id, &made);
        let (op, args) = match composite.or(args.map(|args| (op.clone(), args))) {
            Some(found) => found,
            None => continue,
        };
        let new = out.add(op, &args)?;
        origin.insert(new, v);
        made.insert(id, new);
    }
    out.outputs = g
        .outputs
        .iter()
        .filter_map(|o| made.get(&egraph.find(ids[o])).copied())
        .collect();
    Ok((out, origin))
}

/// How far rewriting goes; never time, so that results do not depend on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// E-nodes after which it stops.
    pub nodes: usize,
    /// Rounds after which it stops.
    pub iterations: usize,
}

impl Default for Limits {
    /// Four times what a transformer block needs; extraction takes a second or two there, and minutes beyond.
    fn default() -> Limits {
        Limits {
            nodes: 10_000,
            iterations: 60,
        }
    }
}

fn runner(egraph: egraph::EGraph, limits: &Limits) -> Runner<egraph::ENode, egraph::Facts> {
    Runner::default()
        .with_egraph(egraph)
        .with_scheduler(SimpleScheduler)
        .with_node_limit(limits.nodes)
        .with_iter_limit(limits.iterations)
        .with_time_limit(Duration::MAX)
}

/// Rewrites a graph into the cheapest normal form found.
///
/// # Errors
/// When no kernel computes some value.
pub fn graph(g: &Graph, o: &Options) -> Result<(Graph, Report), OptimizeError> {
    let (recognised, origin) = recognise(g, &o.without)?;
    saturate(&recognised, o).map_err(|e| match e {
        OptimizeError::NoKernel {
            graph,
            value,
            op,
            args,
        } => {
            let known = origin.iter().find(|(new, _)| new.index() == value);
            let value = known.map_or(value, |(_, old)| old.index());
            OptimizeError::NoKernel {
                graph,
                value,
                op,
                args,
            }
        }
        e => e,
    })
}

/// Optimizes each unique graph of a program once; calls and signatures stay.
///
/// # Errors
/// Those of [`graph`], with the graph's name.
pub fn program(p: &Program, o: &Options) -> Result<(Program, Reports), OptimizeError> {
    let (mut out, mut reports) = (p.clone(), Reports::new());
    for (name, g) in &mut out.graphs {
        let (better, report) = graph(g, o).map_err(|e| match e {
            OptimizeError::NoKernel {
                value, op, args, ..
            } => OptimizeError::NoKernel {
                graph: name.to_string(),
                value,
                op,
                args,
            },
            e => e,
        })?;
        *g = better;
        reports.insert(name.clone(), report);
    }
    Ok((out, reports))
}

/// How a graph came to be what [`graph`] makes of it.
#[derive(Debug)]
pub struct Explanation {
    /// What [`graph`] gives.
    pub optimized: Graph,
    /// Of it.
    pub report: Report,
    /// How composites that were written out became ops.
    pub recognised: Derivation,
    /// How that became the optimized graph.
    pub rewritten: Derivation,
    /// What became of every rule.
    pub verdicts: Vec<(&'static rules::Rule, Verdict)>,
}

/// Explains what [`graph`] does; takes several times as long. Values in derivations have the names of the graph's text.
/// `None` if egg stopped at the limits before it had proved again what was found.
///
/// # Errors
/// Those of [`graph`].
pub fn explain(g: &Graph, o: &Options) -> Result<Option<Explanation>, OptimizeError> {
    let (recognised, origin) = recognise(g, &o.without)?;
    let (optimized, report) = graph(g, o)?;
    let mut names = g.labels();
    let wanted =
        |r: &rules::Rule| matches!(r.finds, rules::Finds::Expansion(_)) && !o.without.leaves_out(r);
    let first = derive(g, &recognised, &names, &Limits::default(), rewrites(wanted))?;
    let renamed = origin.iter();
    names = renamed
        .filter_map(|(new, old)| Some((*new, names.get(old)?.clone())))
        .collect();
    let wanted = |r: &rules::Rule| !o.without.leaves_out(r);
    let second = derive(&recognised, &optimized, &names, &o.limits, rewrites(wanted))?;
    let (Some((recognised, _)), Some((rewritten, mut egraph))) = (first, second) else {
        return Ok(None);
    };
    let mut fired = report.fired.clone();
    for (rule, times) in &recognised.fired {
        *fired.entry(rule.clone()).or_default() += times;
    }
    let verdicts = verdicts(&mut egraph, &fired, &o.without);
    Ok(Some(Explanation {
        optimized,
        report,
        recognised,
        rewritten,
        verdicts,
    }))
}

/// How often each rule said something new, for those that did.
fn fired(runner: &Runner<egraph::ENode, egraph::Facts>) -> BTreeMap<String, usize> {
    let mut fired = BTreeMap::new();
    for (name, times) in runner.iterations.iter().flat_map(|i| &i.applied) {
        *fired
            .entry(rules::name_of(name.as_str()).into())
            .or_default() += times;
    }
    fired
}

fn saturate(g: &Graph, o: &Options) -> Result<(Graph, Report), OptimizeError> {
    let mut egraph = egraph::EGraph::default();
    let ids = egraph::load(&mut egraph, g)?;
    let wanted = |r: &rules::Rule| !o.without.leaves_out(r);
    let runner = runner(egraph, &o.limits).run(rewrites(wanted));
    let names = REWRITES.iter().map(|(rule, _)| rule.name.clone());
    let mut fired: BTreeMap<String, usize> = names.map(|n| (n, 0)).collect();
    fired.extend(self::fired(&runner));
    let outputs: Vec<egg::Id> = g.outputs.iter().map(|v| ids[v]).collect();
    let shared = g.cone(&g.outputs).into_iter().filter(|v| {
        let kept = usize::from(g.outputs.contains(v));
        g.op(*v).is_some() && g.users(*v).len() + kept > 1
    });
    let shared: Vec<egg::Id> = shared.map(|v| ids[&v]).collect();
    let extraction = Extraction::new(&runner.egraph, &outputs, &shared, &*o.cost, &o.sizes);
    let found = extraction.graph(g, &outputs).zip(extraction.cost(&outputs));
    let Some((better, after)) = found else {
        let missing = |v: &Value| !extraction.covers(ids[v]);
        let culprit = g.cone(&g.outputs).into_iter().find(missing);
        let culprit = culprit.unwrap_or(g.outputs[0]);
        return Err(OptimizeError::NoKernel {
            graph: String::new(),
            value: culprit.index(),
            op: g.op(culprit).map_or("input", |op| op.kind().name()),
            args: g.args(culprit).iter().map(|a| g.ty(*a).clone()).collect(),
        });
    };
    let report = Report {
        nodes: runner.egraph.total_number_of_nodes(),
        classes: runner.egraph.number_of_classes(),
        iterations: runner.iterations.len(),
        stop: match runner.stop_reason {
            Some(StopReason::NodeLimit(_)) => Stop::Nodes,
            Some(StopReason::IterationLimit(_)) => Stop::Iterations,
            _ => Stop::Saturated,
        },
        fired,
        before: unfused(g, &runner.egraph, &ids, o),
        after,
    };
    Ok((better, report))
}

/// Cost with one kernel for each op that is not a view and not computed from weights alone.
fn unfused(g: &Graph, egraph: &egraph::EGraph, ids: &HashMap<Value, egg::Id>, o: &Options) -> u64 {
    let known_of = |v: &Value| egraph[ids[v]].data.value();
    let bytes = |v: &Value| {
        let bytes = |k: &egraph::Known| k.storage.bytes(o.sizes.size(&k.ty.numel()));
        known_of(v).map_or(0, bytes)
    };
    let cone = g.cone(&g.outputs);
    let open = g.open();
    let costs = cone.iter().filter_map(|v| {
        let op = g.op(*v)?;
        if known_of(v)?.weights_only || open[v.index()] || op.kind().class() == ir::Class::View {
            return None;
        }
        let args = g.args(*v).iter();
        let facts: Vec<&egraph::Known> = args.map(known_of).collect::<Option<_>>()?;
        let mut work = work::work(op, &facts, g.ty(*v), &o.sizes);
        for (a, fact) in g.args(*v).iter().zip(&facts) {
            let sum = match fact.weights_only {
                true => &mut work.weights,
                false => &mut work.values,
            };
            *sum = sum.saturating_add(bytes(a));
        }
        work.values = work.values.saturating_add(bytes(v));
        Some(o.cost.kernel(&work))
    });
    costs.fold(0, u64::saturating_add)
}
