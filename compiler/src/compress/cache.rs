//! The key/value cache in another element type: a program whose states are that, whose rows are rounded when they are
//! written, and whose attention widens what it reads. Knows states and attention; no layout and no kernel.

use ir::{DType, Graph, Op, Program, Role, Type, TypeError, Value, ops};
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
    Positions(String),
    /// Something else than attention reads it.
    #[error("state {0} is read by {1}, which takes f32 alone: this model's cache is f32")]
    Reader(String, &'static str),
    /// What is built does not type-check.
    #[error(transparent)]
    Type(#[from] TypeError),
}

impl CacheType {
    /// Of the cache's elements.
    pub fn dtype(self) -> DType {
        match self {
            CacheType::F32 => DType::F32,
            CacheType::F16 => DType::F16,
            CacheType::Bf16 => DType::BF16,
        }
    }

    /// Gives every state of the program this type.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn apply(self, program: &mut Program) -> Result<(), CacheError> {
        let to = self.dtype();
        if to == DType::F32 {
            return Ok(());
        }
        if program.states.is_empty() {
            return Err(CacheError::None);
        }
        for ty in program.states.values_mut() {
            ty.dtype = to;
        }
        for graph in program.graphs.values_mut() {
            *graph = narrowed(graph, to)?;
        }
        Ok(())
    }
}

/// The graph with states of the type `to`.
fn narrowed(graph: &Graph, to: DType) -> Result<Graph, CacheError> {
    let (mut out, mut made) = (Graph::new(), HashMap::<Value, Value>::new());
    // Of each value that is a state, before or after it was written to, the state's name.
    let mut states: HashMap<Value, String> = HashMap::new();
    for v in graph.values() {
        if let Some((name, role)) = graph.as_input(v) {
            let mut ty: Type = graph.ty(v).clone();
            if role == Role::State {
                ty.dtype = to;
                states.insert(v, name.to_string());
            }
            made.insert(v, out.input(name.clone(), role, ty));
            continue;
        }
        let Some(op) = graph.op(v) else { continue };
        let old = graph.args(v);
        let mut args: Vec<Value> = old.iter().map(|a| made[a]).collect();
        let read = old.iter().position(|a| states.contains_key(a));
        match (op, read) {
            (_, None) | (Op::Attention(_), Some(1 | 2)) => {}
            (Op::Scatter(_), Some(0)) => {
                let state = states[&old[0]].clone();
                if let Some(Op::Concat(_)) = graph.op(old[2]) {
                    return Err(CacheError::Positions(state));
                }
                args[2] = out.add(ops::Cast { to }, &[args[2]])?;
                states.insert(v, state);
            }
            (op, Some(i)) => {
                return Err(CacheError::Reader(
                    states[&old[i]].clone(),
                    op.kind().name(),
                ));
            }
        }
        made.insert(v, out.add(op.clone(), &args)?);
    }
    out.outputs = graph.outputs.iter().map(|v| made[v]).collect();
    Ok(out)
}
