//! Computes weights-only terms at compile time and lays them out as kernels read them. Layout ops are followed as
//! strides over the mapped checkpoint, so that a weight which is only cast, transposed or joined is read once and
//! never held as f32. Arithmetic is done in f64 and rounded once; integers that share scales stay integers.

mod array;
mod cells;
mod expression;
mod groups;
pub mod reread;

pub use array::Array;
pub use expression::Expression;
pub use groups::{round, stored};

use crate::schedule::WeightTerm;
use groups::Groups;
use ir::{Element, EvalError, Graph, Node, Op, Tensor, Type, TypeError, Value, abi::Codec};
use std::collections::HashMap;

/// Why a weight cannot be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FoldError {
    /// An expansion does not type-check.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A term has no value.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A term whose size is not known at compile time.
    #[error("weight of type {0} has no size at compile time")]
    Symbolic(Type),
    /// A code that its element does not say.
    #[error("{element} does not say code {code}: codes of integers lie from {} to {}", element.codes().0, element.codes().1)]
    Code {
        /// The code.
        code: i32,
        /// What it is to be.
        element: Element,
    },
    /// A weight that is not held as the kernel reads it.
    #[error("{found} where a kernel reads {wanted} along axis 0: a bug in the scheduler")]
    Groups {
        /// How it is held.
        found: String,
        /// What the kernel reads.
        wanted: Codec,
    },
}

/// The weights-only part of a graph, lowered once and evaluated for each call.
#[derive(Clone)]
pub struct Fold {
    graph: Graph,
    terms: Vec<WeightTerm>,
}

impl Fold {
    /// Prepares a graph's terms.
    ///
    /// # Errors
    /// When an expansion does not type-check.
    pub fn new(graph: &Graph, terms: &[WeightTerm]) -> Result<Fold, FoldError> {
        let mut part = graph.clone();
        part.outputs = terms.iter().map(|t| t.value).collect();
        Ok(Fold {
            graph: part.lower(|_| false)?,
            terms: terms.to_vec(),
        })
    }

    /// What a term means, row-major in f32, however it is to be stored.
    ///
    /// # Errors
    /// See [`FoldError`].
    pub fn meaning<'a>(
        &self,
        term: usize,
        input: &dyn Fn(usize) -> Array<'a>,
    ) -> Result<Vec<f32>, FoldError> {
        let mut plain = self.clone();
        plain.terms[term].codec = Codec::Plain(ir::DType::F32);
        plain.terms[term].packing = crate::schedule::Packing::Rows;
        let bytes = plain.term(term, input)?;
        let floats = bytes.as_chunks().0.iter();
        Ok(floats.map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// A term's bytes, as kernels read them. `input` gives the array of a graph input, by position.
    ///
    /// # Errors
    /// See [`FoldError`].
    pub fn term<'a>(
        &self,
        term: usize,
        input: &dyn Fn(usize) -> Array<'a>,
    ) -> Result<Vec<u8>, FoldError> {
        let WeightTerm { codec, packing, .. } = self.terms[term];
        match (codec, self.held(term, input)?) {
            (Codec::Plain(dtype), value) => Ok(value.plain().pack(dtype, packing)),
            (Codec::Grouped { .. }, Held::Groups(groups)) => groups.pack(codec, packing),
            (Codec::Grouped { .. }, Held::Plain(array)) => Err(FoldError::Groups {
                found: format!("elements of {}", array.dtype),
                wanted: codec,
            }),
        }
    }

    /// Some rows of what a term `[N, K]` means, row-major. Of a term that layout ops alone make of an input, no others are read.
    ///
    /// # Errors
    /// See [`FoldError`].
    pub fn rows<'a>(
        &self,
        term: usize,
        input: &dyn Fn(usize) -> Array<'a>,
        rows: &[usize],
    ) -> Result<Vec<f32>, FoldError> {
        Ok(self.held(term, input)?.plain().rows(rows))
    }

    /// What a term evaluates to, before it is laid out.
    fn held<'a>(
        &self,
        term: usize,
        input: &dyn Fn(usize) -> Array<'a>,
    ) -> Result<Held<'a>, FoldError> {
        let root = self.graph.outputs[term];
        let mut held: HashMap<Value, Held<'a>> = HashMap::new();
        for v in self.graph.cone(&[root]) {
            let value = match self.graph.node(v) {
                Node::Input { .. } => {
                    let position = self.graph.inputs().iter().position(|i| *i == v);
                    Held::Plain(input(position.expect("an input is among the inputs")))
                }
                Node::Op { op, args } => {
                    let args: Vec<Held> = args.iter().map(|a| held[a].clone()).collect();
                    self.evaluate(v, op, args)?
                }
            };
            held.insert(v, value);
        }
        Ok(held.remove(&root).expect("a term is in its own cone"))
    }

    fn evaluate<'a>(&self, v: Value, op: &Op, args: Vec<Held<'a>>) -> Result<Held<'a>, FoldError> {
        let ty = self.graph.ty(v);
        let shape: Option<Vec<usize>> = ty.shape.iter().map(ir::Dim::size).collect();
        let shape = shape.ok_or_else(|| FoldError::Symbolic(ty.clone()))?;
        let axis = match op {
            Op::Concat(c) => usize::try_from(c.axis).ok(),
            _ => None,
        };
        // What moves integers, or says them.
        let grouped = args.iter().map(|a| match a {
            Held::Groups(groups) => Some(groups.clone()),
            Held::Plain(_) => None,
        });
        let moved = match (grouped.collect::<Option<Vec<Groups>>>(), axis) {
            (Some(parts), Some(axis)) => Groups::join(&parts, axis, &shape),
            (Some(parts), None) if parts.len() == 1 => parts[0].relayout(op, &shape),
            _ => None,
        };
        if let Some(groups) = moved {
            return Ok(Held::Groups(groups));
        }
        let args: Vec<Array> = args.into_iter().map(Held::plain).collect();
        if let Some(groups) = Groups::of(op, &args) {
            return Ok(Held::Groups(groups));
        }
        Ok(Held::Plain(match (&args[..], axis) {
            (parts, Some(axis)) => Array::join(parts, axis, &shape),
            ([x], _) if let Some(view) = x.relayout(op, &shape) => view,
            _ => {
                let tensors: Vec<Tensor> = args.iter().map(Array::to_tensor).collect();
                Array::from_tensor(&op.eval(&tensors, &shape)?)
            }
        }))
    }
}

/// A value while a term is computed.
#[derive(Clone, Debug)]
enum Held<'a> {
    /// Element by element.
    Plain(Array<'a>),
    /// Integers with scales.
    Groups(Groups<'a>),
}

impl<'a> Held<'a> {
    fn plain(self) -> Array<'a> {
        match self {
            Held::Plain(array) => array,
            Held::Groups(groups) => groups.decode(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Packing;
    use ir::{DType, Role, ops};

    /// A term evaluated in a few ways must agree with the reference interpreter.
    #[test]
    fn terms_equal_the_interpreter() {
        let mut g = Graph::new();
        let ty = |shape: [usize; 2]| Type::new(DType::BF16, shape);
        let a = g.input("a", Role::Weight, ty([20, 3]));
        let b = g.input("b", Role::Weight, ty([5, 3]));
        let gain = g.input("gain", Role::Weight, Type::new(DType::F32, [3usize]));
        let mut add = |op: Op, args: &[Value]| g.add(op, args).expect("types check");
        let both = add(ops::Concat { axis: 0 }.into(), &[a, b]);
        let wide = add(ops::Cast { to: DType::F32 }.into(), &[both]);
        let scaled = add(ops::Mul.into(), &[wide, gain]);
        let turned = add(
            ops::Transpose {
                perm: vec![1.into(), 0.into()],
            }
            .into(),
            &[scaled],
        );
        let flat = add(
            ops::Reshape {
                shape: vec![75.into()],
            }
            .into(),
            &[turned],
        );
        let part = add(
            ops::Slice {
                axis: 1,
                start: 2,
                end: 21,
            }
            .into(),
            &[turned],
        );
        g.outputs = vec![both, turned, flat, part];
        let values = |n: usize| (0..n).map(|i| (i as f64) * 0.25 - 3.0).collect::<Vec<_>>();
        let inputs = [
            Tensor::new([20, 3], values(60)),
            Tensor::new([5, 3], values(15)),
            Tensor::new([3], values(3)),
        ];
        let wanted = g.eval(&inputs, &|_| 1).expect("evaluates");
        let terms: Vec<WeightTerm> = g
            .outputs
            .iter()
            .map(|v| WeightTerm {
                value: *v,
                codec: Codec::Plain(DType::F32),
                packing: Packing::Rows,
            })
            .collect();
        let fold = Fold::new(&g, &terms).expect("lowers");
        let input = |i: usize| {
            let t = &inputs[i];
            let dtype = if i < 2 { DType::BF16 } else { DType::F32 };
            let mut bytes = Array::from_tensor(t).pack(dtype, Packing::Rows);
            bytes.shrink_to_fit();
            Array::new(dtype, &t.shape, bytes)
        };
        for (i, want) in wanted.iter().enumerate() {
            let bytes = fold.term(i, &input).expect("folds");
            let got: Vec<f64> = bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f64::from(f32::from_le_bytes(*b)))
                .collect();
            assert_eq!(got, want.data, "term {i}");
        }
    }
}
