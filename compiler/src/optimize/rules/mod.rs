//! The rewrite rules: tables by theme, each rule one line with a name, two sides, a guard and an example that is also
//! its test. Knows how a rule becomes an egg rewrite; costs nothing to read, decides nothing about what is better.
//!
//! House rules: a right side that does not type-check, or has another type, does not fire; commuted left sides are
//! made when a rule is loaded, never by a rule; a rule's example saturates small.

mod algebra;
mod attention;
mod composites;
mod embedding;
mod folding;
mod form;
mod fusion;
mod layout;
mod merge;
mod rotation;

use super::{
    egraph::{ENode, Fact, Facts, Known},
    term::{SELF, Term},
};
use crate::storage::Storage;
use egg::Pattern;
use form::{Build, Guard};
pub use form::{Conclusion, Form, Refusal};
use ir::{Attr, OpKind};

/// The theme of the rules that make kernels of single ops; the others make fewer and better ones of them.
pub const KERNELS: &str = "kernels";

/// The theme of rules that join weights which multiply the same.
pub const MERGE: &str = "merge";

/// The theme of rules that compute weights of weights.
pub const FOLDING: &str = "folding";

/// One rewrite.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which table it stands in.
    pub theme: &'static str,
    /// Unique.
    pub name: String,
    /// What it finds.
    pub lhs: String,
    /// What is equal to that.
    pub rhs: String,
    /// Conditions, separated by commas: a predicate of `PREDICATES` and its variables.
    pub guard: String,
    /// The variables of both sides, separated by semicolons; see `tests/rules.rs` for the notation.
    pub example: String,
    /// How left sides are found.
    pub finds: Finds,
}

/// How a rule finds its left sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finds {
    /// By pattern.
    Pattern,
    /// By matching the expansion of this composite.
    Expansion(OpKind),
    /// By looking for products of one tensor behind the arguments of an attention.
    Products,
}

/// `name: lhs => rhs; if guard; example`, the guard optional.
macro_rules! rules {
    ($theme:expr; $($name:literal: $lhs:literal => $rhs:literal $(if $guard:literal)?; $example:literal)*) => {
        vec![$($crate::optimize::rules::Rule {
            theme: $theme,
            name: $name.into(),
            lhs: $lhs.into(),
            rhs: $rhs.into(),
            guard: String::new() $(+ $guard)?,
            example: $example.into(),
            finds: $crate::optimize::rules::Finds::Pattern,
        }),*]
    };
}
use rules;

/// Every rule.
pub fn all() -> Vec<Rule> {
    let themes = [
        algebra::rules(),
        folding::rules(),
        layout::rules(),
        embedding::rules(),
        attention::rules(),
        rotation::rules(),
        composites::rules(),
        merge::rules(),
        fusion::rules(),
    ];
    themes.into_iter().flatten().collect()
}

/// A condition on what is known of some variables' classes.
type Predicate = (&'static str, fn(&[&Fact]) -> bool);

/// What a guard may say.
const PREDICATES: &[Predicate] = &[
    ("weight", |f| {
        known(f).is_some_and(|k| k.iter().all(|k| k.weights_only))
    }),
    ("data", |f| {
        known(f).is_some_and(|k| k.iter().all(|k| !k.weights_only))
    }),
    ("closed", |f| {
        known(f).is_some_and(|k| k.iter().all(|k| !k.open))
    }),
    ("plain", |f| {
        known(f).is_some_and(|k| k.iter().all(|k| k.storage.dtype().is_some()))
    }),
    ("scalar", |f| {
        known(f).is_some_and(|k| k.iter().all(|k| k.ty.shape.is_empty()))
    }),
    ("vector", |f| {
        known(f).is_some_and(|k| k.iter().all(|k| k.ty.shape.len() == 1))
    }),
    ("matrix", |f| {
        known(f).is_some_and(|k| k.iter().all(|k| k.ty.shape.len() == 2))
    }),
    ("same", |f| {
        known(f).is_some_and(|k| k.iter().all(|j| j.ty == k[0].ty))
    }),
    ("rows", |f| {
        known(f).is_some_and(|k| k.iter().all(|j| rows(j) == rows(k[0])))
    }),
    ("alike", |f| {
        known(f).is_some_and(|k| Storage::alike(k.iter().map(|k| k.storage)))
    }),
    ("thick", |f| {
        known(f).is_some_and(|k| matches!(&k[..], [u, v] if thick(u, v)))
    }),
    ("identity", |f| match f {
        [Fact::Attr(Attr::Dims(p))] => p.iter().enumerate().all(|(i, d)| d.size() == Some(i)),
        _ => false,
    }),
];

fn known<'a>(facts: &[&'a Fact]) -> Option<Vec<&'a Known>> {
    facts.iter().map(|f| f.value()).collect()
}

/// Whether the product of two matrices has no more elements than they have: thin factors are what a weight was meant to be.
fn thick(u: &Known, v: &Known) -> bool {
    let size = |of: &Known, axis: usize| of.ty.shape.get(axis).and_then(ir::Dim::size);
    let sizes = (size(u, 0), size(v, 0), size(v, 1));
    matches!(sizes, (Some(k), Some(r), Some(n)) if k * n <= r * (k + n))
}

/// Rank and first dim: values that agree in both have their rows at the same places.
fn rows(known: &Known) -> (usize, Option<&ir::Dim>) {
    (known.ty.shape.len(), known.ty.shape.first())
}

impl Rule {
    /// The rule as egg rewrites, one for each order of commutative arguments on the left.
    ///
    /// # Errors
    /// When the rule's text is malformed.
    pub fn compile(&self) -> Result<Vec<Rewrite>, String> {
        Ok(self.forms()?.into_iter().map(|f| f.rewrite).collect())
    }

    /// The same, each with what it concludes.
    ///
    /// # Errors
    /// When the rule's text is malformed.
    pub fn forms(&self) -> Result<Vec<Form>, String> {
        let forms = match self.finds {
            Finds::Pattern => self.patterns(),
            Finds::Expansion(kind) => composites::compile(self, kind).map(|form| vec![form]),
            Finds::Products => merge::compile(self).map(|form| vec![form]),
        };
        forms.map_err(|e| format!("rule {}: {e}", self.name))
    }

    /// What a refusal of this rule says.
    pub fn why(&self, refusal: Refusal) -> String {
        match refusal {
            Refusal::Guard(i) => {
                let condition = conditions(&self.guard).nth(i);
                format!("not `{}`", condition.unwrap_or_default())
            }
            Refusal::Untyped => "the right side does not type-check".into(),
            Refusal::OtherType => "the right side has another type".into(),
            Refusal::Lacks(what) => what.into(),
        }
    }

    fn patterns(&self) -> Result<Vec<Form>, String> {
        let (lhs, rhs) = (Term::parse(&self.lhs)?, Term::parse(&self.rhs)?);
        let guard = guard(&self.guard)?;
        let unbound = |v: &&str| *v != SELF && !lhs.vars().contains(v);
        let used = guard
            .iter()
            .flat_map(|(_, vars)| vars.iter().map(String::as_str));
        if let Some(v) = rhs.vars().into_iter().chain(used).find(unbound) {
            return Err(format!("?{v} does not occur on the left"));
        }
        lhs.commuted()
            .iter()
            .enumerate()
            .map(|(i, form)| {
                let pattern = form.pattern().ok_or("a left side calls no functions")?;
                let build = Build {
                    lhs: form.clone(),
                    rhs: rhs.clone(),
                    guard: guard.clone(),
                };
                // egg wants unique names; see `name_of`.
                let name = format!("{}{VARIANT}{i}", self.name);
                Form::new(&name, Pattern::new(pattern), build)
            })
            .collect()
    }
}

/// Separates a rule's name from the number of its left side's form.
const VARIANT: char = '~';

/// Name of the rule that a rewrite is a form of.
pub fn name_of(rewrite: &str) -> &str {
    rewrite.split(VARIANT).next().unwrap_or(rewrite)
}

/// A rule that egg can run.
pub type Rewrite = egg::Rewrite<ENode, Facts>;

/// Of a guard, each as it is written.
fn conditions(guard: &str) -> impl Iterator<Item = &str> {
    guard.split(',').map(str::trim).filter(|g| !g.is_empty())
}

fn guard(text: &str) -> Result<Guard, String> {
    conditions(text)
        .map(|g| {
            let mut words = g.split_whitespace();
            let name = words.next().unwrap_or_default();
            let found = PREDICATES.iter().find(|(n, _)| *n == name);
            let vars = words.map(|w| w.trim_start_matches('?').to_string());
            Ok((
                found.ok_or(format!("no predicate `{name}`"))?.1,
                vars.collect(),
            ))
        })
        .collect()
}
