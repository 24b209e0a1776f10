//! The reference interpreter: lowers to primitives and evaluates them in f64. The oracle of every test.

use crate::{Graph, Sym, Tensor, TypeError, Value, graph::Node};
use std::collections::HashMap;

/// Why evaluation stopped.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// An expansion does not type-check.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// An op that only an expansion gives meaning to was evaluated as it stands.
    #[error("{op} cannot be evaluated here: it is no primitive, or was given wrong arguments")]
    NotPrimitive {
        /// Its name.
        op: &'static str,
    },
    /// A row index beyond its table.
    #[error("{op}: row {index} of a table of {rows} rows")]
    Index {
        /// The op that read it.
        op: &'static str,
        /// The index.
        index: i64,
        /// Rows there are.
        rows: usize,
    },
    /// An input tensor of another shape than the graph's type says.
    #[error("input {name}: shape {found:?}, the graph wants {wanted:?}")]
    Input {
        /// The input.
        name: String,
        /// Given.
        found: Vec<usize>,
        /// Wanted.
        wanted: Vec<usize>,
    },
}

impl Graph {
    /// Values of the outputs for `inputs` (in signature order) with each symbol at `at` of it.
    ///
    /// # Errors
    /// See [`EvalError`].
    pub fn eval(
        &self,
        inputs: &[Tensor],
        at: &dyn Fn(&Sym) -> i64,
    ) -> Result<Vec<Tensor>, EvalError> {
        let graph = self.lower(|_| false)?;
        let mut values: HashMap<Value, Tensor> = HashMap::new();
        for (v, t) in graph.inputs().iter().zip(inputs) {
            let wanted = graph.ty(*v).at(at);
            if t.shape != wanted {
                let name = graph
                    .as_input(*v)
                    .map(|(n, _)| n.to_string())
                    .unwrap_or_default();
                let found = t.shape.clone();
                return Err(EvalError::Input {
                    name,
                    found,
                    wanted,
                });
            }
            values.insert(*v, t.clone());
        }
        let cone = graph.cone(&graph.outputs);
        let mut last_use: HashMap<Value, Value> = HashMap::new();
        for v in &cone {
            for a in graph.args(*v) {
                last_use.insert(*a, *v);
            }
        }
        for v in &cone {
            if let Node::Op { op, args } = graph.node(*v) {
                let tensors: Vec<Tensor> = args.iter().map(|a| values[a].clone()).collect();
                values.insert(*v, op.eval(&tensors, &graph.ty(*v).at(at))?);
                for a in args {
                    if last_use[a] == *v && !graph.outputs.contains(a) {
                        values.remove(a);
                    }
                }
            }
        }
        Ok(graph.outputs.iter().map(|o| values[o].clone()).collect())
    }
}
