//! Products of one tensor that meet in an attention (queries, keys, values) become slices of one product with the
//! weights side by side. Anchored at the attention: without an anchor any two products of a tensor would merge, and
//! the e-graph would blow up.

use super::{Conclusion, Finds, Form, MERGE, Refusal, Rule};
use crate::{
    optimize::egraph::{EGraph, ENode, Facts, Tag, add_op, derive},
    storage::Storage,
};
use egg::{Id, SearchMatches, Searcher, Subst, Symbol, Var};
use ir::{Op, OpKind, ops};

pub fn rules() -> Vec<Rule> {
    let of = |product: &str| {
        format!(
            "(attention (rope (reshape {} [T,2,4]) ?cos ?sin) (scatter ?kc ?rows (rope (reshape {} [T,2,4]) ?cos ?sin)) (scatter ?vc ?rows (reshape {} [T,2,4])) ?lo ?hi 0.5 0.0)",
            product.replace('#', "q"),
            product.replace('#', "k"),
            product.replace('#', "v"),
        )
    };
    let inputs = "x: f32[T,8]; wq: weight f32[8,8]; wk: weight f32[8,8]; wv: weight f32[8,8]; cos: f32[T,1,2]; sin: f32[T,1,2]; \
        kc: state f32[R,2,4]; vc: state f32[R,2,4]; rows: i32[T] distinct R; lo: i32[T] in 0..R; hi: i32[T] in lo..R";
    let slices = |merged: &str| {
        of("(slice M 1 #0 #1)")
            .replace("q0 q1", "0 8")
            .replace("k0 k1", "8 16")
            .replace("v0 v1", "16 24")
            .replace('M', merged)
    };
    let rule = |name: &str, lhs: String, rhs: String, more: &str| Rule {
        theme: MERGE,
        name: name.into(),
        lhs,
        rhs,
        guard: String::new(),
        example: format!("{inputs}{more}"),
        finds: Finds::Products,
    };
    let product = "(matmul ?x (concat ?wq ?wk ?wv 1))";
    let biases = "; bq: weight f32[8]; bk: weight f32[8]; bv: weight f32[8]";
    vec![
        rule(
            "merge-projections",
            of("(matmul ?x ?w#)"),
            slices(product),
            "",
        ),
        rule(
            "merge-biased-projections",
            of("(add (matmul ?x ?w#) ?b#)"),
            slices(&format!("(add {product} (concat ?bq ?bk ?bv 0))")),
            biases,
        ),
    ]
}

/// The merge as an egg rewrite. Both rules of the table are one rewrite each: with and without biases.
pub fn compile(rule: &Rule) -> Result<Form, String> {
    let biased = rule.lhs.contains("(add ");
    Form::new(&rule.name, Attentions, Merge { biased })
}

/// Every class that holds an attention.
struct Attentions;

impl Searcher<ENode, Facts> for Attentions {
    fn search_with_limit(&self, egraph: &EGraph, limit: usize) -> Vec<SearchMatches<'_, ENode>> {
        let classes = egraph
            .classes_for_op(&Tag::Op(OpKind::Attention))
            .into_iter()
            .flatten();
        classes
            .filter_map(|c| self.search_eclass_with_limit(egraph, c, limit))
            .collect()
    }
    fn search_eclass_with_limit(
        &self,
        _: &EGraph,
        class: Id,
        _: usize,
    ) -> Option<SearchMatches<'_, ENode>> {
        Some(SearchMatches {
            eclass: class,
            substs: vec![Subst::default()],
            ast: None,
        })
    }
    fn vars(&self) -> Vec<Var> {
        vec![]
    }
}

/// A product with a weight, and the bias after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Product {
    /// What is multiplied.
    x: Id,
    /// The class of the product, bias included.
    class: Id,
    w: Id,
    bias: Option<Id>,
}

struct Merge {
    biased: bool,
}

impl Conclusion for Merge {
    fn conclude(
        &self,
        egraph: &mut EGraph,
        class: Id,
        _: &Subst,
        rule: Symbol,
    ) -> Result<Vec<Id>, Refusal> {
        let attentions: Vec<Vec<Id>> = egraph[class]
            .nodes
            .iter()
            .filter(|n| n.kind() == Some(OpKind::Attention))
            .map(|n| n.split().0[..3].to_vec())
            .collect();
        let mut concluded = Err(Refusal::Lacks(
            "queries, keys and values are no products of one tensor (or the other rule's, with biases or without)",
        ));
        for args in attentions {
            // With all biases known, products without them have nothing to offer.
            let biased = triples(egraph, &args, true);
            let plain = triples(egraph, &args, false);
            let covered = |t: &[Product; 3]| biased.iter().any(|b| b[0].x == t[0].x);
            let chosen: Vec<[Product; 3]> = match self.biased {
                true => biased,
                false => plain.into_iter().filter(|t| !covered(t)).collect(),
            };
            for triple in chosen {
                concluded = match (concluded, merge(egraph, &triple, rule)) {
                    (Ok(mut changed), Ok(more)) => {
                        changed.extend::<Vec<Id>>(more);
                        Ok(changed)
                    }
                    (Ok(changed), Err(_)) | (Err(_), Ok(changed)) => Ok(changed),
                    (Err(_), refused) => refused,
                };
            }
        }
        concluded
    }
}

/// Products of one tensor behind the queries, keys and values, all with a bias or all without.
fn triples(egraph: &EGraph, args: &[Id], biased: bool) -> Vec<[Product; 3]> {
    let [q, k, v] = [0, 1, 2].map(|i| products(egraph, args[i], biased));
    let triple = |q: &Product| {
        let same = |all: &[Product]| all.iter().find(|p| p.x == q.x).copied();
        Some([*q, same(&k)?, same(&v)?])
    };
    q.iter().filter_map(triple).collect()
}

/// Products behind a value: through views, rotations, norms, constant scales and shifts, casts, and
/// cache updates.
fn products(egraph: &EGraph, from: Id, biased: bool) -> Vec<Product> {
    let weight = |id: Id| egraph[id].data.value().is_some_and(|k| k.weights_only);
    let vector = |id: Id| {
        egraph[id]
            .data
            .value()
            .is_some_and(|k| k.ty.shape.len() == 1)
    };
    let product = |class: Id, bias: Option<Id>, of: Id| {
        let node = egraph[of]
            .nodes
            .iter()
            .filter(|n| n.kind() == Some(OpKind::MatMul));
        let pairs = node.map(|n| (n.split().0[0], n.split().0[1]));
        let pairs = pairs.filter(|(x, w)| weight(*w) && !weight(*x));
        pairs
            .map(move |(x, w)| Product {
                x: egraph.find(x),
                class,
                w,
                bias,
            })
            .collect::<Vec<_>>()
    };
    let (mut found, mut seen, mut todo) = (vec![], vec![], vec![egraph.find(from)]);
    while let Some(class) = todo.pop() {
        if seen.contains(&class) {
            continue;
        }
        seen.push(class);
        if !biased {
            found.extend(product(class, None, class));
        }
        for node in &egraph[class].nodes {
            let args = node.split().0;
            let next = match node.kind() {
                Some(
                    OpKind::Reshape
                    | OpKind::Rope
                    | OpKind::RmsNorm
                    | OpKind::LayerNorm
                    | OpKind::Cast,
                ) => args[0],
                Some(OpKind::Scatter) => args[2],
                Some(OpKind::Add | OpKind::Mul) if weight(args[0]) != weight(args[1]) => {
                    let (data, constant) = if weight(args[0]) {
                        (args[1], args[0])
                    } else {
                        (args[0], args[1])
                    };
                    if biased && node.kind() == Some(OpKind::Add) && vector(constant) {
                        found.extend(product(class, Some(constant), data));
                    }
                    data
                }
                _ => continue,
            };
            todo.push(egraph.find(next));
        }
    }
    found.sort();
    found
}

/// Makes each product a slice of one; returns the classes for which that is news.
fn merge(egraph: &mut EGraph, parts: &[Product], rule: Symbol) -> Result<Vec<Id>, Refusal> {
    let distinct = parts.iter().enumerate().all(|(i, p)| {
        parts[..i]
            .iter()
            .all(|q| egraph.find(q.class) != egraph.find(p.class))
    });
    if !distinct {
        return Err(Refusal::Lacks("two of the products are the same"));
    }
    let weights: Vec<Id> = parts.iter().map(|p| p.w).collect();
    let stored = weights.iter().filter_map(|w| egraph[*w].data.value());
    if !Storage::alike(stored.map(|k| k.storage)) {
        return Err(Refusal::Lacks("the weights are not stored alike"));
    }
    let biases: Option<Vec<Id>> = parts.iter().map(|p| p.bias).collect();
    let mut add = |op: Op, args: &[Id]| -> Option<Id> {
        let attrs: Vec<Id> = op
            .attrs()
            .into_iter()
            .map(|a| egraph.add_uncanonical(ENode::Attr(a)))
            .collect();
        let node = ENode::Op(op.kind(), [args, &attrs].concat().into());
        derive(&node, |id| &egraph[id].data)?;
        Some(add_op(egraph, &op, args))
    };
    let merged = (|| {
        let w = add(ops::Concat { axis: 1 }.into(), &weights)?;
        let product = add(ops::MatMul.into(), &[parts[0].x, w])?;
        match &biases {
            Some(b) => {
                let b = add(ops::Concat { axis: 0 }.into(), b)?;
                add(ops::Add.into(), &[product, b])
            }
            None => Some(product),
        }
    })();
    let merged = merged.ok_or(Refusal::Untyped)?;
    let (mut changed, mut start) = (vec![], 0);
    for part in parts {
        let shape = egraph[part.class]
            .data
            .value()
            .map(|k| (k.ty.shape.len(), k.ty.last().known()));
        let Some((rank, Some(width))) = shape else {
            return Err(Refusal::Lacks("the products' widths are not known"));
        };
        let slice = ops::Slice {
            axis: rank as i64 - 1,
            start,
            end: start + width,
        };
        let id = add_op(egraph, &slice.into(), &[merged]);
        start += width;
        let whole = part.term(egraph);
        if egraph.union_trusted(whole, id, rule) {
            changed.push(part.class);
        }
    }
    Ok(changed)
}

impl Product {
    /// The product as it was found, for explanations.
    fn term(&self, egraph: &mut EGraph) -> Id {
        if !egraph.are_explanations_enabled() {
            return self.class;
        }
        let product = add_op(egraph, &ops::MatMul.into(), &[self.x, self.w]);
        let Some(bias) = self.bias else {
            return product;
        };
        let orders = [[product, bias], [bias, product]];
        let sums = orders.map(|args| ENode::Op(OpKind::Add, args.into()));
        let known = |node: &ENode| egraph.lookup(node.clone()) == Some(egraph.find(self.class));
        let found = sums.into_iter().find(known);
        found.map_or(self.class, |node| egraph.add_uncanonical(node))
    }
}
