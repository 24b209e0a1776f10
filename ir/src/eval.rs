//! The reference interpreter: lowers to primitives and evaluates them in f64. The oracle of every test.

use crate::{Graph, Name, Operand, Program, Sym, Tensor, TypeError, Value, graph::Node};
use indexmap::IndexMap;
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
    /// Too few or too many tensors.
    #[error("{found} tensors given, the graph has {wanted} inputs")]
    Count {
        /// Given.
        found: usize,
        /// Wanted.
        wanted: usize,
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
    /// A program was given no value for an input, a weight or a state, or has a call that [`Program::verify`]
    /// reports.
    #[error("call {call}: no value for {operand}")]
    Missing {
        /// Index of the call.
        call: usize,
        /// What it wants.
        operand: String,
    },
}

impl EvalError {
    fn missing(call: usize, operand: &Operand) -> EvalError {
        EvalError::Missing {
            call,
            operand: operand.to_string(),
        }
    }
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
        let (found, wanted) = (inputs.len(), self.inputs().len());
        if found != wanted {
            return Err(EvalError::Count { found, wanted });
        }
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

impl Program {
    /// Values of the outputs after one step. `given` finds inputs and weights; `states` holds every state before the
    /// step, and after it.
    ///
    /// # Errors
    /// See [`EvalError`]; states are as they were.
    pub fn eval(
        &self,
        given: &dyn Fn(&Operand) -> Option<Tensor>,
        states: &mut IndexMap<Name, Tensor>,
        at: &dyn Fn(&Sym) -> i64,
    ) -> Result<IndexMap<Name, Tensor>, EvalError> {
        let mut now = states.clone();
        let mut results: Vec<Vec<Tensor>> = vec![];
        let find = |operand: &Operand, states: &IndexMap<Name, Tensor>, results: &[Vec<Tensor>]| {
            match operand {
                Operand::Constant(n) => self.constant(n, at),
                Operand::State(n) => states.get(n).cloned(),
                Operand::Result { call, output } => {
                    results.get(*call).and_then(|r| r.get(*output)).cloned()
                }
                operand => given(operand),
            }
        };
        for (i, call) in self.calls.iter().enumerate() {
            let outputs = self.eval_call(i, &|operand| find(operand, &now, &results), at)?;
            for (output, state) in &call.updates {
                if let Some(new) = outputs.get(*output) {
                    now.insert(state.clone(), new.clone());
                }
            }
            results.push(outputs);
        }
        let output = |(name, operand): (&Name, &Operand)| {
            let found = find(operand, &now, &results);
            let missing = || EvalError::missing(results.len(), operand);
            Ok((name.clone(), found.ok_or_else(missing)?))
        };
        let outputs = self.outputs.iter().map(output);
        let outputs = outputs.collect::<Result<_, EvalError>>()?;
        *states = now;
        Ok(outputs)
    }

    /// Values of the outputs of call `index` alone. `given` finds its arguments but for constants: a layer can be
    /// evaluated on what another machine made of the layers before it.
    ///
    /// # Errors
    /// See [`EvalError`].
    ///
    /// # Panics
    /// Beyond the last call.
    pub fn eval_call(
        &self,
        index: usize,
        given: &dyn Fn(&Operand) -> Option<Tensor>,
        at: &dyn Fn(&Sym) -> i64,
    ) -> Result<Vec<Tensor>, EvalError> {
        let call = &self.calls[index];
        let graph = self.graphs.get(&call.graph);
        let graph = graph.ok_or_else(|| EvalError::Missing {
            call: index,
            operand: format!("graph {}", call.graph),
        })?;
        let find = |operand: &Operand| {
            let found = match operand {
                Operand::Constant(n) => self.constant(n, at),
                operand => given(operand),
            };
            found.ok_or_else(|| EvalError::missing(index, operand))
        };
        let args = call.args.iter().map(find);
        graph.eval(&args.collect::<Result<Vec<_>, _>>()?, at)
    }

    fn constant(&self, name: &Name, at: &dyn Fn(&Sym) -> i64) -> Option<Tensor> {
        let constant = self.constants.get(name)?;
        let data = constant.data.iter().map(|x| x.get()).collect();
        Some(Tensor::new(constant.ty.at(at), data))
    }
}
