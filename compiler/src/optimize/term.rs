//! The terms that rules are written in: `(op args .. attrs ..)`, variables `?x`, attribute literals, and `($f ..)`
//! for attributes computed from types. Knows the notation, not the rules.

use super::egraph::{EGraph, ENode, Fact, derive};
use egg::{ENodeOrVar, Id, PatternAst, RecExpr, Subst, Var};
use ir::{Attr, DType, Dim, Float, Graph, OpKind, Sym, Type, Value};
use std::collections::HashMap;

/// Symbols in a rule's text are bounded by this.
const SYMBOL_MAX: u32 = 64;

/// The variable that stands for the matched class itself.
pub const SELF: &str = "self";

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// `?x`.
    Var(String),
    /// A literal: `1`, `0.5`, `[1,0]`, `bf16` or `f32[T,8]`.
    Attr(Attr),
    /// Arguments, then attributes.
    Op(OpKind, Vec<Term>),
    /// A function from types and attributes to an attribute.
    Call(Function, Vec<Term>),
}

/// What a function sees of its arguments.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// A value's type.
    Type(&'a Type),
    /// An attribute.
    Attr(&'a Attr),
}

/// A name, and what it computes; `None` where that is not defined.
pub type Named = (&'static str, fn(&[Seen<'_>]) -> Option<Attr>);

/// One of [`FUNCTIONS`].
pub type Function = &'static Named;

/// Functions that a right side may call, without their `$`.
pub const FUNCTIONS: &[Named] = &[
    // The type of a value.
    ("type", |a| match a {
        [Seen::Type(t)] => Some(Attr::Type((*t).clone())),
        _ => None,
    }),
    // `[K, 1]` for a vector of `K`.
    ("column", |a| match a {
        [Seen::Type(t)] => match &t.shape[..] {
            [k] => Some(Attr::Dims(vec![k.clone(), 1.into()])),
            _ => None,
        },
        _ => None,
    }),
    // The permutation that is the first one, then the second.
    ("compose", |a| match a {
        [Seen::Attr(Attr::Dims(p)), Seen::Attr(Attr::Dims(q))] => {
            let axes = q.iter().map(|i| p.get(i.size()?).cloned());
            Some(Attr::Dims(axes.collect::<Option<_>>()?))
        }
        _ => None,
    }),
    // The trailing dims of a shape that a vector fills.
    ("tail", |a| match a {
        [Seen::Type(t), Seen::Attr(Attr::Dims(shape))] if t.shape.len() == 1 => {
            let wanted = t.numel();
            (1..=shape.len()).rev().find_map(|n| {
                let tail = &shape[shape.len() - n..];
                let size = tail.iter().cloned().fold(Dim::from(1), |x, d| x * d);
                (size == wanted && tail[0].known() != Some(1)).then(|| Attr::Dims(tail.to_vec()))
            })
        }
        _ => None,
    }),
    // All elements in one axis.
    ("flat", |a| match a {
        [Seen::Type(t)] => Some(Attr::Dims(vec![t.numel()])),
        _ => None,
    }),
    // The shape with another first dim: the first of a value's.
    ("lead", |a| match a {
        [Seen::Type(t), Seen::Attr(Attr::Dims(shape))] => {
            let lead = t.shape.first()?.clone();
            let rest = shape.get(1..)?.iter().cloned();
            Some(Attr::Dims(std::iter::once(lead).chain(rest).collect()))
        }
        _ => None,
    }),
    // Sum of integers, product of reals.
    ("plus", |a| match a {
        [Seen::Attr(Attr::Int(x)), Seen::Attr(Attr::Int(y))] => Some(Attr::Int(x.checked_add(*y)?)),
        _ => None,
    }),
    ("times", |a| match a {
        [Seen::Attr(Attr::Float(x)), Seen::Attr(Attr::Float(y))] => {
            Some(Attr::Float(Float::from(x.get() * y.get())))
        }
        _ => None,
    }),
];

impl Term {
    /// Reads a term.
    ///
    /// # Errors
    /// Says what is wrong and in which text.
    pub fn parse(text: &str) -> Result<Term, String> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let mut tokens = spaced.split_whitespace().peekable();
        let term = Term::read(&mut tokens).map_err(|e| format!("{e} in `{text}`"))?;
        match tokens.next() {
            None => Ok(term),
            Some(t) => Err(format!("`{t}` after the end in `{text}`")),
        }
    }

    fn read<'a>(
        tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    ) -> Result<Term, String> {
        let token = tokens.next().ok_or("unexpected end")?;
        if token != "(" {
            return match token.strip_prefix('?') {
                Some(name) => Ok(Term::Var(name.into())),
                None => attr(token).map(Term::Attr),
            };
        }
        let name = tokens.next().ok_or("unexpected end")?;
        let mut args = vec![];
        while tokens.peek().is_some_and(|t| *t != ")") {
            args.push(Term::read(tokens)?);
        }
        tokens.next().ok_or("`)` missing")?;
        if let Some(function) = name.strip_prefix('$') {
            let found = FUNCTIONS.iter().find(|(n, _)| *n == function);
            return Ok(Term::Call(
                found.ok_or(format!("no function `{name}`"))?,
                args,
            ));
        }
        let kind = OpKind::named(name).ok_or(format!("no op `{name}`"))?;
        Ok(Term::Op(kind, args))
    }

    /// Every term that differs in the order of arguments of commutative ops alone, itself included.
    pub fn commuted(&self) -> Vec<Term> {
        let Term::Op(kind, args) = self else {
            return vec![self.clone()];
        };
        let mut all: Vec<Vec<Term>> = vec![vec![]];
        for a in args {
            let forms = a.commuted();
            all = all
                .into_iter()
                .flat_map(|done| {
                    forms
                        .iter()
                        .map(move |f| [&done[..], std::slice::from_ref(f)].concat())
                })
                .collect();
        }
        let mut terms = vec![];
        for args in all {
            let turned = commutative(*kind).then(|| args.iter().rev().cloned().collect());
            for args in std::iter::once(args).chain(turned) {
                let term = Term::Op(*kind, args);
                if !terms.contains(&term) {
                    terms.push(term);
                }
            }
        }
        terms
    }

    /// The names of the variables.
    pub fn vars(&self) -> Vec<&str> {
        match self {
            Term::Var(name) => vec![name],
            Term::Attr(_) => vec![],
            Term::Op(_, args) | Term::Call(_, args) => args.iter().flat_map(Term::vars).collect(),
        }
    }

    /// The term as an egg pattern; `None` if it calls a function.
    pub fn pattern(&self) -> Option<PatternAst<ENode>> {
        let mut ast = RecExpr::default();
        self.add_to(&mut ast)?;
        Some(ast)
    }

    fn add_to(&self, ast: &mut PatternAst<ENode>) -> Option<Id> {
        let node = match self {
            Term::Var(name) => ENodeOrVar::Var(var(name)),
            Term::Attr(a) => ENodeOrVar::ENode(ENode::Attr(a.clone())),
            Term::Op(kind, args) => {
                let args: Vec<Id> = args.iter().map(|a| a.add_to(ast)).collect::<Option<_>>()?;
                ENodeOrVar::ENode(ENode::Op(*kind, args.into()))
            }
            Term::Call(..) => return None,
        };
        Some(ast.add(node))
    }

    /// The term as values of a graph, its variables from `env`.
    ///
    /// # Errors
    /// When it does not type-check or a variable has no value.
    pub fn build(
        &self,
        g: &mut Graph,
        env: &HashMap<String, Result<Value, Attr>>,
    ) -> Result<Result<Value, Attr>, String> {
        let items = |args: &[Term], g: &mut Graph| -> Result<Vec<Result<Value, Attr>>, String> {
            args.iter().map(|a| a.build(g, env)).collect()
        };
        Ok(match self {
            Term::Var(name) => env.get(name).cloned().ok_or(format!("?{name} unbound"))?,
            Term::Attr(a) => Err(a.clone()),
            Term::Call((name, call), args) => {
                let args = items(args, g)?;
                let seen: Vec<Seen<'_>> = args
                    .iter()
                    .map(|a| match a {
                        Ok(v) => Seen::Type(g.ty(*v)),
                        Err(a) => Seen::Attr(a),
                    })
                    .collect();
                Err(call(&seen).ok_or(format!("${name} is not defined of {seen:?}"))?)
            }
            Term::Op(kind, args) => {
                let args = items(args, g)?;
                let values: Vec<Value> = args.iter().filter_map(|a| a.clone().ok()).collect();
                let attrs: Vec<Attr> = args.into_iter().filter_map(Result::err).collect();
                let op = kind.build(&attrs);
                let op = op.ok_or(format!("{} has other attributes", kind.name()))?;
                Ok(g.add(op, &values).map_err(|e| e.to_string())?)
            }
        })
    }
}

/// Whether the two arguments may change places.
pub fn commutative(kind: OpKind) -> bool {
    matches!(kind, OpKind::Add | OpKind::Mul | OpKind::Max | OpKind::Min)
}

/// The egg variable of that name.
pub fn var(name: &str) -> Var {
    format!("?{name}").parse().expect("names are not empty")
}

/// Reads an attribute literal.
///
/// # Errors
/// When the text is none.
pub fn attr(text: &str) -> Result<Attr, String> {
    let wrong = || format!("`{text}` is no attribute");
    if let Some(dims) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return Ok(Attr::Dims(shape(dims)?));
    }
    if let Some((dtype, dims)) = text.strip_suffix(']').and_then(|t| t.split_once('[')) {
        let dtype = named_dtype(dtype).ok_or_else(wrong)?;
        return Ok(Attr::Type(Type::new(dtype, shape(dims)?)));
    }
    if let Some(dtype) = named_dtype(text) {
        return Ok(Attr::DType(dtype));
    }
    if let Ok(element) = text.parse() {
        return Ok(Attr::Element(element));
    }
    match text.parse::<i64>() {
        Ok(i) => Ok(Attr::Int(i)),
        Err(_) => Ok(Attr::Float(Float::from(
            text.parse::<f64>().map_err(|_| wrong())?,
        ))),
    }
}

fn named_dtype(text: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|d| d.name() == text)
}

fn shape(text: &str) -> Result<Vec<Dim>, String> {
    text.split(',')
        .filter(|d| !d.is_empty())
        .map(|d| match d.parse::<i64>() {
            Ok(n) => Ok(Dim::from(n)),
            Err(_) if d.chars().all(char::is_alphanumeric) => {
                Ok(Dim::from(&Sym::new(d, SYMBOL_MAX)))
            }
            Err(_) => Err(format!("`{d}` is no dim")),
        })
        .collect()
}

/// A term laid out for an e-graph but not yet added: nodes after their children, each with its facts.
#[derive(Default)]
pub struct Draft(Vec<(Planned, Fact)>);

enum Planned {
    Class(Id),
    /// Children are indices into the draft.
    New(ENode),
}

impl Draft {
    /// Lays the term out; `None` if it does not type-check. The last entry is the term itself.
    pub fn lay(&mut self, term: &Term, egraph: &EGraph, class: Id, subst: &Subst) -> Option<Id> {
        let entry = match term {
            Term::Var(name) => {
                let id = if name == SELF {
                    class
                } else {
                    *subst.get(var(name))?
                };
                (Planned::Class(id), egraph[id].data.clone())
            }
            Term::Attr(a) => (Planned::New(ENode::Attr(a.clone())), Fact::Attr(a.clone())),
            Term::Call((_, call), args) => {
                let args = self.lay_all(args, egraph, class, subst)?;
                let seen: Vec<Seen<'_>> = args
                    .iter()
                    .map(|i| match &self.0[usize::from(*i)].1 {
                        Fact::Value(known) => Seen::Type(&known.ty),
                        Fact::Attr(a) => Seen::Attr(a),
                    })
                    .collect();
                let a = call(&seen)?;
                (Planned::New(ENode::Attr(a.clone())), Fact::Attr(a))
            }
            Term::Op(kind, args) => {
                let args = self.lay_all(args, egraph, class, subst)?;
                let node = ENode::Op(*kind, args.into());
                let fact = derive(&node, |i| &self.0[usize::from(i)].1)?;
                (Planned::New(node), fact)
            }
        };
        self.0.push(entry);
        Some(Id::from(self.0.len() - 1))
    }

    fn lay_all(
        &mut self,
        terms: &[Term],
        egraph: &EGraph,
        class: Id,
        subst: &Subst,
    ) -> Option<Vec<Id>> {
        terms
            .iter()
            .map(|t| self.lay(t, egraph, class, subst))
            .collect()
    }

    /// Facts of the last entry.
    pub fn fact(&self) -> Option<&Fact> {
        self.0.last().map(|(_, fact)| fact)
    }

    /// Adds the nodes and returns the id of the last entry, which is of this very term where egg keeps explanations.
    pub fn commit(self, egraph: &mut EGraph) -> Option<Id> {
        let mut ids: Vec<Id> = Vec::with_capacity(self.0.len());
        for (planned, _) in self.0 {
            ids.push(match planned {
                Planned::Class(id) => id,
                Planned::New(node) => {
                    use egg::Language;
                    egraph.add_uncanonical(node.map_children(|i| ids[usize::from(i)]))
                }
            });
        }
        ids.last().copied()
    }
}
