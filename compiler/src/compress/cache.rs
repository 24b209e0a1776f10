//! The key/value cache in fewer bits: a program whose rows are rounded when they are written, to states of a narrow type
//! that attention widens, or to what integers and a scale can say, which is then stored so. Knows states and attention; no
//! layout and no kernel.

use ir::{DType, Graph, Name, Op, Program, Role, Type, TypeError, Value, ops};
use std::collections::HashMap;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheType {
    /// As they are computed.
    #[default]
    F32,
    /// Rounded to f16: half the memory; numbers beyond 65504 become infinite.
    F16,
    /// Rounded to bf16: half the memory, an eighth of f16's precision, f32's range.
    Bf16,
    /// Rounded to integers up to 127, with a scale for each row and head: little more than a quarter of the memory.
    Int8,
}

/// Why a program cannot have such a cache.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CacheError {
    /// It keeps nothing.
    #[error(
        "the model has no key/value cache, as it generates nothing: leave out the cache's type"
    )]
    None,
    /// The cache holds what is not to be rounded.
    #[error(
        "state {0} also holds the positions of its rows, from which scores get their biases (ALiBi): rounded they would be \
         wrong, so that this model's cache is f32"
    )]
    Positions(Name),
    /// Something else than attention reads it.
    #[error("state {0} is read by {1}, which takes f32 alone: this model's cache is f32")]
    Reader(Name, &'static str),
    /// The device reads no other.
    #[error(
        "kernels for GPUs read no keys and values of integers: compile with a cache of f32, f16 or bf16"
    )]
    Device,
    /// What is built does not type-check.
    #[error(transparent)]
    Type(#[from] TypeError),
}

impl CacheType {
    /// Of the cache's elements, as the program says them.
    pub fn dtype(self) -> DType {
        match self {
            CacheType::F32 | CacheType::Int8 => DType::F32,
            CacheType::F16 => DType::F16,
            CacheType::Bf16 => DType::BF16,
        }
    }

    /// Gives every state of the program this type.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn apply(self, program: &mut Program) -> Result<(), CacheError> {
        if self == CacheType::F32 {
            return Ok(());
        }
        if program.states.is_empty() {
            return Err(CacheError::None);
        }
        for ty in program.states.values_mut() {
            ty.dtype = self.dtype();
        }
        for graph in program.graphs.values_mut() {
            *graph = self.narrowed(graph)?;
        }
        Ok(())
    }

    /// The graph with states of this type.
    fn narrowed(self, graph: &Graph) -> Result<Graph, CacheError> {
        // Of each value that is a state, before or after it was written to, the state's name.
        let mut states: HashMap<Value, Name> = HashMap::new();
        for v in graph.inputs() {
            if let Some((name, Role::State)) = graph.as_input(*v) {
                states.insert(*v, name.clone());
            }
        }
        let input = |role, ty: &Type| match role {
            Role::State => Type {
                dtype: self.dtype(),
                shape: ty.shape.clone(),
            },
            Role::Data | Role::Weight => ty.clone(),
        };
        graph.retype(input, |out, v, op, args| {
            let old = graph.args(v);
            let read = old.iter().position(|a| states.contains_key(a));
            match (op, read) {
                (_, None) | (Op::Attention(_), Some(1 | 2)) => Ok(out.add(op.clone(), args)?),
                (Op::Scatter(_), Some(0)) => {
                    let state = states[&old[0]].clone();
                    if let Some(Op::Concat(_)) = graph.op(old[2]) {
                        return Err(CacheError::Positions(state));
                    }
                    states.insert(v, state);
                    let rounding = self.rounding(out.ty(args[2]));
                    let rows = out.add(rounding, &[args[2]])?;
                    Ok(out.add(op.clone(), &[args[0], args[1], rows])?)
                }
                (op, Some(i)) => {
                    let state = states[&old[i]].clone();
                    Err(CacheError::Reader(state, op.kind().name()))
                }
            }
        })
    }

    /// What rows `[T, G, D]` of this type become.
    fn rounding(self, rows: &Type) -> Op {
        match self {
            CacheType::Int8 => Op::from(ops::FakeQuantize {
                element: ir::Element::Q8,
                group: rows.last().known().unwrap_or(0),
                scale: DType::F32,
            }),
            _ => Op::from(ops::Cast { to: self.dtype() }),
        }
    }
}
