//! The element type of what weights multiply: a program that rounds it in front of each product. Where it is stored so follows from
//! that; decides nothing about kernels.

use super::rounding::products;
use ir::{Class, DType, Graph, Op, Program, TypeError, Value, ops};

/// How activations are rounded that meet weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationType {
    /// Not at all.
    #[default]
    F32,
    /// To bf16, as frameworks do that run models in it: also queries, and keys and values that no cache keeps. Sums, residuals and
    /// norms stay f32; GPUs round probabilities that multiply values of bf16, too.
    Bf16,
}

impl ActivationType {
    /// Rounds what every product of a weight multiplies, and what attention does.
    ///
    /// # Errors
    /// An op that does not type-check.
    pub fn apply(self, program: &mut Program) -> Result<(), TypeError> {
        let to = match self {
            ActivationType::F32 => return Ok(()),
            ActivationType::Bf16 => DType::BF16,
        };
        for graph in program.graphs.values_mut() {
            *graph = products(graph, |g, args| {
                args[0] = round(g, args[0], to)?;
                Ok(())
            })?;
            *graph = graph.rebuild(|g, _, op, args| {
                let mut args = args.to_vec();
                if let Op::Attention(_) = op {
                    for x in &mut args[..3] {
                        // What a cache keeps is of the cache's type.
                        if !matches!(g.op(*x), Some(Op::Scatter(_))) {
                            *x = round(g, *x, to)?;
                        }
                    }
                }
                g.add(op.clone(), &args)
            })?;
        }
        Ok(())
    }
}

/// A value rounded to a type, in front of views of it: there the kernel that computes it can do so.
pub(super) fn round(g: &mut Graph, x: Value, to: DType) -> Result<Value, TypeError> {
    if g.ty(x).dtype != DType::F32 {
        return Ok(x);
    }
    if let (Some(op), [inner]) = (g.op(x).cloned(), g.args(x))
        && op.kind().class() == Class::View
    {
        let inner = round(g, *inner, to)?;
        return g.add(op, &[inner]);
    }
    let narrow = g.add(ops::Cast { to }, &[x])?;
    g.add(ops::Cast { to: DType::F32 }, &[narrow])
}
