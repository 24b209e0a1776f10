//! Every rewrite rule, tested by its own example: both sides are built, typed symbolically and evaluated at several
//! sizes and values; the rule must turn the one into the other, and must not make the e-graph grow without end. No
//! code for any one rule.
//!
//! An example declares the variables of a rule, separated by semicolons:
//!
//! * `x: f32[T,8]`, `w: weight f32[8,4]`, `c: state f32[R,4]`: an input;
//! * `i: i32[T] in 0..R`: indices; `hi: i32[T] in lo..R`: ends of intervals that start at `lo`, never empty;
//!   `r: i32[T] distinct R`: no index twice;
//! * `eps = 0.1`, `s = [T,2,4]`: an attribute;
//! * `e := (tanh (acc 0 f32[T,8]))`: a term, here a kernel's body.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::optimize::{
    self,
    ablation::Ablation,
    egraph::{self, EGraph},
    rules::{self, Finds, Rewrite, Rule},
    term::{self, Term},
};
use egg::{Runner, SimpleScheduler, StopReason};
use ir::{Attr, Graph, Role, Sym, Tensor, Type, Value};
use std::{collections::HashMap, time::Duration};

/// Sizes of the symbols T, L and R; T never above R.
const SIZES: &[[i64; 3]] = &[[1, 1, 1], [3, 2, 5], [2, 5, 2]];

/// What floats are drawn from.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    Uniform,
    Edges,
}

/// Where an input's indices come from.
enum Indices {
    Range(String, String),
    Distinct(String),
}

/// An example read: the graph of its inputs, and what its variables stand for.
struct Example {
    graph: Graph,
    env: HashMap<String, Result<Value, Attr>>,
    /// For each input.
    indices: Vec<Option<Indices>>,
}

impl Example {
    fn read(text: &str) -> Result<Example, String> {
        let mut e = Example {
            graph: Graph::new(),
            env: HashMap::new(),
            indices: vec![],
        };
        for part in text.split(';').map(str::trim) {
            let item = if let Some((name, term)) = part.split_once(":=") {
                let built = Term::parse(term)?.build(&mut e.graph, &e.env)?;
                (name.trim(), built)
            } else if let Some((name, value)) = part.split_once('=') {
                (name.trim(), Err(term::attr(value.trim())?))
            } else {
                let (name, rest) = part.split_once(':').ok_or(format!("`{part}`?"))?;
                (name.trim(), Ok(e.declare(name.trim(), rest)?))
            };
            e.env.insert(item.0.into(), item.1);
        }
        Ok(e)
    }

    fn declare(&mut self, name: &str, text: &str) -> Result<Value, String> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let role = match words[0] {
            "weight" => Role::Weight,
            "state" => Role::State,
            _ => Role::Data,
        };
        if role != Role::Data {
            words.remove(0);
        }
        let ty = Type::try_from(term::attr(words[0])?).map_err(|a| format!("{a} is no type"))?;
        self.indices.push(match words[1..] {
            [] => None,
            ["in", range] => {
                let (start, end) = range.split_once("..").ok_or("no range")?;
                Some(Indices::Range(start.into(), end.into()))
            }
            ["distinct", end] => Some(Indices::Distinct(end.into())),
            _ => return Err(format!("`{text}`?")),
        });
        Ok(self.graph.input(name, role, ty))
    }

    fn build(&mut self, term: &Term) -> Result<Value, String> {
        let built = term.build(&mut self.graph, &self.env)?;
        built.map_err(|a| format!("{a} is no value"))
    }

    fn inputs(&self, sizes: [i64; 3], values: Values, seed: u64) -> Vec<Tensor> {
        let mut rng = Random(seed);
        let mut made: Vec<Tensor> = vec![];
        let names: Vec<String> = self
            .graph
            .inputs()
            .iter()
            .map(|v| self.graph.as_input(*v).unwrap().0.to_string())
            .collect();
        for (v, indices) in self.graph.inputs().iter().zip(&self.indices) {
            let ty = self.graph.ty(*v);
            let shape = ty.at(&|s| size(s, sizes));
            let bound = |text: &str| match text.parse::<i64>() {
                Ok(n) => n,
                Err(_) => size(&Sym::new(text, 64), sizes),
            };
            let tensor = match indices {
                None if ty.dtype == ir::DType::Bool => {
                    Tensor::from_fn(&shape, |_| f64::from(u8::from(rng.below(2) == 1)))
                }
                None => Tensor::from_fn(&shape, |_| {
                    ty.dtype.round(match values {
                        Values::Uniform => rng.unit(),
                        Values::Edges => [0.0, 1.0, -1.0, 1e-6, 25.0, -25.0][rng.below(6) as usize],
                    })
                }),
                Some(Indices::Range(start, end)) => {
                    let from = names
                        .iter()
                        .position(|n| n == start)
                        .map(|i| made[i].clone());
                    let end = bound(end);
                    Tensor::from_fn(&shape, |at| match &from {
                        None => (bound(start) + rng.below(end - bound(start))) as f64,
                        Some(lo) => {
                            let lo = lo.data[at[0]] as i64;
                            (lo + 1 + rng.below(end - lo)) as f64
                        }
                    })
                }
                Some(Indices::Distinct(end)) => {
                    let mut free: Vec<i64> = (0..bound(end)).collect();
                    Tensor::from_fn(&shape, |_| {
                        free.remove(rng.below(free.len() as i64) as usize) as f64
                    })
                }
            };
            made.push(tensor);
        }
        made
    }
}

fn size(s: &Sym, [t, l, r]: [i64; 3]) -> i64 {
    match &*s.name {
        "T" => t,
        "L" => l,
        "R" => r,
        other => panic!("symbol {other} in an example"),
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// In -1..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
    fn below(&mut self, n: i64) -> i64 {
        (self.next() % u64::try_from(n).unwrap()) as i64
    }
}

/// Both sides of a rule over the inputs of its example.
fn sides(rule: &Rule) -> Result<(Example, Value, Value), String> {
    let mut e = Example::read(&rule.example)?;
    let (lhs, rhs) = (Term::parse(&rule.lhs)?, Term::parse(&rule.rhs)?);
    let mut left = e.build(&lhs)?;
    e.env.insert(term::SELF.into(), Ok(left));
    let right = e.build(&rhs)?;
    if let Finds::Expansion(_) = rule.finds {
        let (op, args) = (
            e.graph.op(left).unwrap().clone(),
            e.graph.args(left).to_vec(),
        );
        let expanded = op.expand(&mut e.graph, &args).ok_or("a primitive")?;
        left = expanded.map_err(|e| e.to_string())?;
    }
    Ok((e, left, right))
}

/// What is wrong with a rule; nothing for a good one.
fn fault(rule: &Rule) -> Result<(), String> {
    let (mut e, left, right) = sides(rule)?;
    if e.graph.ty(left) != e.graph.ty(right) {
        return Err(format!(
            "type: {} became {}",
            e.graph.ty(left),
            e.graph.ty(right)
        ));
    }
    e.graph.outputs = vec![left, right];
    for (i, sizes) in SIZES.iter().enumerate() {
        for values in [Values::Uniform, Values::Edges] {
            let inputs = e.inputs(*sizes, values, 0x9E37_79B9 + i as u64);
            let at = |s: &Sym| size(s, *sizes);
            let outputs = e.graph.eval(&inputs, &at).map_err(|e| e.to_string())?;
            for (l, r) in outputs[0].data.iter().zip(&outputs[1].data) {
                let same = l == r || (l.is_nan() && r.is_nan());
                if !same
                    && (l - r).abs().partial_cmp(&(1e-9 * (1.0 + l.abs())))
                        != Some(std::cmp::Ordering::Less)
                {
                    return Err(format!("value: {l} became {r} at {sizes:?}"));
                }
            }
        }
    }
    fires(rule, &e, left, right)
}

/// The rule alone must make its example's right side from the left one, and then come to rest.
fn fires(rule: &Rule, e: &Example, left: Value, right: Value) -> Result<(), String> {
    let mut graph = e.graph.clone();
    graph.outputs = vec![left];
    let mut egraph = EGraph::default();
    let root = egraph::load(&mut egraph, &graph).map_err(|e| e.to_string())?[&left];
    let before = egraph.total_number_of_nodes();
    let runner = run(egraph, &rule.compile()?, 1000);
    let after = runner.egraph.total_number_of_nodes();
    if !matches!(runner.stop_reason, Some(StopReason::Saturated)) || after > 4 * before + 20 {
        return Err(format!("growth: {before} nodes became {after}"));
    }
    let mut egraph = runner.egraph;
    graph.outputs = vec![right];
    let made = egraph::load(&mut egraph, &graph).map_err(|e| e.to_string())?[&right];
    if egraph.find(made) != egraph.find(root) {
        return Err("does not fire on its example".into());
    }
    Ok(())
}

fn run(egraph: EGraph, rewrites: &[Rewrite], nodes: usize) -> Runner<egraph::ENode, egraph::Facts> {
    Runner::default()
        .with_egraph(egraph)
        .with_scheduler(SimpleScheduler)
        .with_node_limit(nodes)
        .with_iter_limit(30)
        .with_time_limit(Duration::MAX)
        .run(rewrites)
}

#[test]
fn every_rule_holds() {
    let faults: Vec<String> = rules::all()
        .iter()
        .filter_map(|r| {
            fault(r)
                .err()
                .map(|e| format!("{}: {e}\n    {} => {}", r.name, r.lhs, r.rhs))
        })
        .collect();
    assert!(
        faults.is_empty(),
        "{} rules:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = rules::all().into_iter().map(|r| r.name).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn every_example_saturates_small_under_all_rules() {
    let all = rules::all();
    let rewrites: Vec<Rewrite> = all.iter().flat_map(|r| r.compile().unwrap()).collect();
    for rule in &all {
        let (e, left, _) = sides(rule).unwrap();
        let mut graph = e.graph;
        graph.outputs = vec![left];
        let (graph, _) = optimize::recognise(&graph, &Ablation::default()).unwrap();
        let mut egraph = EGraph::default();
        egraph::load(&mut egraph, &graph).unwrap();
        let runner = run(egraph, &rewrites, 5000);
        let nodes = runner.egraph.total_number_of_nodes();
        assert!(
            matches!(runner.stop_reason, Some(StopReason::Saturated)) && nodes < 2000,
            "{}: {nodes} nodes, {:?}",
            rule.name,
            runner.stop_reason
        );
    }
}

#[test]
fn bad_rules_are_caught() {
    let attention = "q: f32[T,4,8]; k: f32[R,4,8]; v: f32[R,4,8]; lo: i32[T] in 0..R; hi: i32[T] in lo..R; s = 0.25; c = 0.0";
    let bad = [
        // (what is wrong, left, right, guard, example)
        (
            "value",
            "(rms_norm (mul ?x ?c) ?eps)",
            "(rms_norm ?x ?eps)",
            "",
            "x: f32[T,8]; c: f32[]; eps = 0.1",
        ),
        (
            "value",
            "(matmul (mul ?x ?g) ?w)",
            "(matmul ?x ?w)",
            "",
            "x: f32[T,8]; g: weight f32[8]; w: weight f32[8,3]",
        ),
        ("value", "(gelu ?x)", "(gelu_tanh ?x)", "", "x: f32[T,8]"),
        (
            "value",
            "(sub ?x ?y)",
            "(sub ?y ?x)",
            "",
            "x: f32[T,8]; y: f32[T,8]",
        ),
        (
            "value",
            "(transpose (transpose ?x ?p) ?q)",
            "(transpose ?x ($compose ?q ?p))",
            "",
            "x: f32[8,8,8]; p = [1,2,0]; q = [1,0,2]",
        ),
        // A bias of the keys matters once they have been rotated.
        (
            "value",
            "(attention ?q (rope (add ?k ?b) ?cos ?sin) ?v ?lo ?hi ?s ?c)",
            "(attention ?q (rope ?k ?cos ?sin) ?v ?lo ?hi ?s ?c)",
            "",
            "b: weight f32[4,8]; cos: f32[R,1,4]; sin: f32[R,1,4]",
        ),
        // And so does a softcap.
        (
            "value",
            "(attention ?q (add ?k ?b) ?v ?lo ?hi ?s 3.0)",
            "(attention ?q ?k ?v ?lo ?hi ?s 3.0)",
            "",
            "b: weight f32[4,8]",
        ),
        (
            "value",
            "(attention ?q ?k ?v ?lo ?hi ?s ?c)",
            "(attention ?q ?v ?k ?lo ?hi ?s ?c)",
            "",
            "b: f32[]",
        ),
        ("type", "(sum ?x)", "(mul ?x ?x)", "", "x: f32[T,8]"),
        ("type", "(cast ?x bf16)", "?x", "", "x: f32[T,8]"),
        (
            "growth",
            "(tanh ?x)",
            "(tanh (transpose (transpose ?x [1,0]) [1,0]))",
            "",
            "x: f32[T,8]",
        ),
        (
            "growth",
            "(rms_norm ?x ?eps)",
            "(mul (const 1.0 f32) (rms_norm (mul ?x (const 1.0 f32)) ?eps))",
            "",
            "x: f32[T,8]; eps = 0.1",
        ),
        (
            "does not fire",
            "(tanh ?x)",
            "(mul (tanh ?x) (const 1.0 f32))",
            "weight ?x",
            "x: f32[T,8]",
        ),
        (
            "does not occur",
            "(tanh ?x)",
            "(add (tanh ?x) (sub ?y ?y))",
            "",
            "x: f32[T,8]; y: f32[T,8]",
        ),
        ("no op", "(tan ?x)", "?x", "", "x: f32[T,8]"),
        (
            "no predicate",
            "(mul ?x ?y)",
            "(mul ?y ?x)",
            "heavy ?x",
            "x: f32[T,8]; y: f32[T,8]",
        ),
    ];
    for (wrong, lhs, rhs, guard, example) in bad {
        let example = if lhs.contains("attention") {
            format!("{attention}; {example}")
        } else {
            example.into()
        };
        let rule = Rule {
            theme: "bad",
            name: "bad".into(),
            lhs: lhs.into(),
            rhs: rhs.into(),
            guard: guard.into(),
            example,
            finds: Finds::Pattern,
        };
        match fault(&rule) {
            Err(e) => assert!(e.contains(wrong), "{lhs} => {rhs}: {e}, expected {wrong}"),
            Ok(()) => panic!("{lhs} => {rhs} was not caught: {wrong}"),
        }
    }
}
