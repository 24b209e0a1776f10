//! A rule as egg runs it, and what it makes of a match: a union, or a refusal that can be told. Knows no rule.

use super::Rewrite;
use crate::optimize::{
    egraph::{EGraph, ENode, Fact, Facts},
    term::{Draft, SELF, Term, var},
};
use egg::{Applier, Id, PatternAst, Searcher, Subst, Symbol};
use std::sync::Arc;

/// A rule with its arguments in one order.
pub struct Form {
    /// As egg runs it.
    pub rewrite: Rewrite,
    /// What it makes of a match.
    pub conclusion: Arc<dyn Conclusion>,
}

impl Form {
    pub(super) fn new(
        name: &str,
        finds: impl Searcher<ENode, Facts> + Send + Sync + 'static,
        conclusion: impl Conclusion,
    ) -> Result<Form, String> {
        let conclusion: Arc<dyn Conclusion> = Arc::new(conclusion);
        let rewrite = Rewrite::new(name, finds, Concludes(Arc::clone(&conclusion)))?;
        Ok(Form {
            rewrite,
            conclusion,
        })
    }
}

/// What a rule makes of a match. Unions are of terms, not of classes, so that egg can explain them: `left` is what matched.
pub trait Conclusion: Send + Sync + 'static {
    /// Makes the right side equal to the class in the name of a rule; gives the classes for which that is news.
    ///
    /// # Errors
    /// When the rule says nothing of this match.
    fn conclude(
        &self,
        egraph: &mut EGraph,
        class: Id,
        subst: &Subst,
        rule: Symbol,
    ) -> Result<Vec<Id>, Refusal>;
}

/// Why a rule says nothing of a match; [`why`](super::Rule::why) tells it to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// This condition of its guard does not hold.
    Guard(usize),
    /// Its right side does not type-check.
    Untyped,
    /// Its right side has another type.
    OtherType,
    /// What it looks for besides its left side is not there.
    Lacks(&'static str),
}

struct Concludes(Arc<dyn Conclusion>);

impl Applier<ENode, Facts> for Concludes {
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        class: Id,
        subst: &Subst,
        _: Option<&PatternAst<ENode>>,
        rule: Symbol,
    ) -> Vec<Id> {
        let concluded = self.0.conclude(egraph, class, subst, rule);
        concluded.unwrap_or_default()
    }
}

/// Conditions on what is known of some variables' classes.
pub(super) type Guard = Vec<(fn(&[&Fact]) -> bool, Vec<String>)>;

/// Builds a right side where the guard holds and the types agree.
pub(super) struct Build {
    pub lhs: Term,
    pub rhs: Term,
    pub guard: Guard,
}

impl Conclusion for Build {
    fn conclude(
        &self,
        egraph: &mut EGraph,
        class: Id,
        subst: &Subst,
        rule: Symbol,
    ) -> Result<Vec<Id>, Refusal> {
        let refused = self.guard.iter().position(|(predicate, vars)| {
            let facts: Option<Vec<&Fact>> = vars
                .iter()
                .map(|v| match &**v {
                    SELF => Some(&egraph[class].data),
                    v => subst.get(var(v)).map(|id| &egraph[*id].data),
                })
                .collect();
            !facts.is_some_and(|f| predicate(&f))
        });
        if let Some(i) = refused {
            return Err(Refusal::Guard(i));
        }
        let mut right = Draft::default();
        right
            .lay(&self.rhs, egraph, class, subst)
            .ok_or(Refusal::Untyped)?;
        let new = right.fact().and_then(Fact::value);
        let (Some(new), Some(old)) = (new, egraph[class].data.value()) else {
            return Err(Refusal::Untyped);
        };
        if new.ty != old.ty || new.open != old.open {
            return Err(Refusal::OtherType);
        }
        let right = right.commit(egraph).ok_or(Refusal::Untyped)?;
        let left = match egraph.are_explanations_enabled() {
            true => {
                let mut left = Draft::default();
                left.lay(&self.lhs, egraph, class, subst);
                left.commit(egraph).unwrap_or(class)
            }
            false => class,
        };
        let news = egraph.union_trusted(left, right, rule);
        Ok(news.then_some(class).into_iter().collect())
    }
}
