//! What became of every rule in a graph: it fired, or why not. Asks the rules themselves about the matches of an e-graph in
//! which they have run; knows no rule.

use super::{
    REWRITES,
    ablation::Ablation,
    egraph::{EGraph, Tag},
    rules::{Finds, Form, Rule},
    term::Term,
};
use ir::OpKind;
use std::collections::BTreeMap;

/// What became of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It said something new so many times.
    Fired(usize),
    /// It was left out.
    LeftOut,
    /// The graph has no such op, and no rule makes one.
    NoOp(&'static str),
    /// Why nothing followed from the places where its left side is: each reason with the number of places. None, if it
    /// is nowhere.
    Silent(Vec<(String, usize)>),
}

/// The verdict on each rule, in the rules' order. `fired` is as in [`super::Report`]; adds to the e-graph what rules that
/// were stopped by limits would have said.
pub fn verdicts(
    egraph: &mut EGraph,
    fired: &BTreeMap<String, usize>,
    without: &Ablation,
) -> Vec<(&'static Rule, Verdict)> {
    let all = REWRITES.iter();
    all.map(|(rule, forms)| {
        let verdict = match fired.get(&rule.name) {
            _ if without.leaves_out(rule) => Verdict::LeftOut,
            Some(times) if *times > 0 => Verdict::Fired(*times),
            _ => silent(egraph, rule, forms),
        };
        (rule, verdict)
    })
    .collect()
}

/// Why a rule did not fire.
fn silent(egraph: &mut EGraph, rule: &Rule, forms: &[Form]) -> Verdict {
    let missing = ops(rule).into_iter().find(|kind| {
        let classes = egraph.classes_for_op(&Tag::Op(*kind));
        classes.is_none_or(|mut c| c.next().is_none())
    });
    if let Some(kind) = missing {
        return Verdict::NoOp(kind.name());
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for form in forms {
        for found in &form.rewrite.searcher.search(egraph) {
            for subst in &found.substs {
                let name = form.rewrite.name;
                let concluded = form.conclusion.conclude(egraph, found.eclass, subst, name);
                let reason = match concluded {
                    Ok(changed) if changed.is_empty() => KNOWN.into(),
                    Ok(_) => LIMITS.into(),
                    Err(refusal) => rule.why(refusal),
                };
                *reasons.entry(reason).or_default() += 1;
            }
        }
        egraph.rebuild();
    }
    Verdict::Silent(reasons.into_iter().collect())
}

const KNOWN: &str = "what it says was known by then";
const LIMITS: &str = "the optimizer stopped at its limits before";

/// Ops that a left side consists of.
fn ops(rule: &Rule) -> Vec<OpKind> {
    fn walk(term: &Term, into: &mut Vec<OpKind>) {
        if let Term::Op(kind, args) = term {
            into.push(*kind);
            args.iter().for_each(|a| walk(a, into));
        }
    }
    let mut found = vec![];
    match rule.finds {
        Finds::Pattern => {
            if let Ok(lhs) = Term::parse(&rule.lhs) {
                walk(&lhs, &mut found);
            }
        }
        Finds::Products => found.push(OpKind::Attention),
        Finds::Expansion(_) => {}
    }
    found
}
