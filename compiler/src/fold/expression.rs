//! What a weights-only term computes and how it is stored, whatever graph it stands in: of the same inputs, terms with
//! equal expressions have the same bytes.

use super::Fold;
use crate::schedule::Packing;
use ir::{Graph, Node, Op, Value, abi::Codec};
use std::collections::HashMap;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expression {
    /// Arguments come before what reads them; the last one is the term.
    steps: Vec<Step>,
    codec: Codec,
    packing: Packing,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// An input, numbered in the order in which they are met.
    Input(usize),
    /// An op of the steps of those numbers.
    Op(Op, Vec<usize>),
}

impl Fold {
    /// A term's expression, and the positions of the graph inputs that it is of.
    pub fn expression(&self, term: usize) -> (Expression, Vec<usize>) {
        let mut found = Found {
            graph: &self.graph,
            numbers: HashMap::new(),
            steps: vec![],
            inputs: vec![],
        };
        found.visit(self.graph.outputs[term]);
        let stored = &self.terms[term];
        let expression = Expression {
            steps: found.steps,
            codec: stored.codec,
            packing: stored.packing,
        };
        (expression, found.inputs)
    }
}

struct Found<'a> {
    graph: &'a Graph,
    numbers: HashMap<Value, usize>,
    steps: Vec<Step>,
    inputs: Vec<usize>,
}

impl Found<'_> {
    fn visit(&mut self, v: Value) -> usize {
        if let Some(number) = self.numbers.get(&v) {
            return *number;
        }
        let graph = self.graph;
        let step = match graph.node(v) {
            Node::Input { .. } => {
                let position = graph.inputs().iter().position(|i| *i == v);
                self.inputs.extend(position);
                Step::Input(self.inputs.len() - 1)
            }
            Node::Op { op, args } => {
                let args = args.iter().map(|a| self.visit(*a)).collect();
                Step::Op(op.clone(), args)
            }
        };
        self.steps.push(step);
        self.numbers.insert(v, self.steps.len() - 1);
        self.steps.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        fold::Fold,
        schedule::{Packing, WeightTerm},
    };
    use ir::{DType, Graph, abi::Codec};

    /// Whether the first result of two graphs, stored so, is written once, and the inputs that it is of.
    #[test]
    fn equal_where_bytes_are_equal() {
        let of = |body: &str, packing: Packing| {
            let graph =
                format!("graph(weight a: f32[2,3], weight b: f32[2,3]) {{ return {body} }}");
            let graph: Graph = graph.parse().expect("parses");
            let term = WeightTerm {
                value: graph.outputs[0],
                codec: Codec::Plain(DType::F32),
                packing,
            };
            let fold = Fold::new(&graph, &[term]).expect("prepares");
            fold.expression(0)
        };
        let turned = |x: &str| format!("transpose({x}) {{perm=[1,0]}}");
        let check = |one: (&str, Packing), other: (&str, Packing), same: bool| {
            let (a, b) = (of(one.0, one.1), of(other.0, other.1));
            assert_eq!(a.0 == b.0, same, "{one:?} and {other:?}");
        };
        let (rows, panels) = (Packing::Rows, Packing::Panels);
        check((&turned("a"), rows), (&turned("b"), rows), true);
        check((&turned("a"), rows), (&turned("a"), panels), false);
        check((&turned("a"), rows), ("a", rows), false);
        check(("mul(a, b)", rows), ("mul(b, a)", rows), true);
        check(("mul(a, b)", rows), ("mul(a, a)", rows), false);
        check(("mul(a, b)", rows), ("add(a, b)", rows), false);
        assert_eq!(of("mul(b, a)", rows).1, [1, 0]);
        assert_eq!(of("mul(b, b)", rows).1, [1]);
    }
}
