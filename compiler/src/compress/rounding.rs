//! One rounding for all weights and activations of a program, decided without looking at them. What kernels store
//! follows from the ops that say it ([`ir::ops::FakeQuantize`]).

use super::activations::round;
use crate::{models::ModelError, schedule::weights_only};
use ir::{DType, Element, Graph, Op, Operand, Program, TypeError, Value, ops};

/// Weights of products rounded to nearest, in groups along what is summed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// What codes are. What gives logits has at least 8 bits: it decides between thousands of tokens.
    pub element: Element,
    /// Weights that share a scale, a multiple of 32; 32 do where this does not divide what is summed over.
    pub group: u32,
    /// To what activations that meet rounded weights are rounded, in the same groups of each token.
    pub activations: Option<Element>,
}

impl Rounding {
    /// The program with every product's weight rounded whose depth 32 divides. `vocabulary` tells the head.
    ///
    /// # Errors
    /// An op that does not type-check.
    pub fn apply(&self, program: &mut Program, vocabulary: usize) -> Result<(), ModelError> {
        let last = |name: &ir::Name| {
            let gives = |o: &Operand| match o {
                Operand::Result { call, .. } => program.calls[*call].graph == *name,
                _ => false,
            };
            program.outputs.values().any(gives)
        };
        let heads: Vec<bool> = program.graphs.keys().map(last).collect();
        for (graph, head) in program.graphs.values_mut().zip(heads) {
            let vocabulary = if head { vocabulary } else { 0 };
            *graph = products(graph, |g, args| self.round(g, args, vocabulary))?;
        }
        Ok(())
    }

    /// Rounds `[x, w]` of a product.
    fn round(&self, g: &mut Graph, args: &mut [Value], vocabulary: usize) -> Result<(), TypeError> {
        let [x, w] = args else {
            return Ok(());
        };
        let sizes = g
            .ty(*w)
            .shape
            .iter()
            .map(ir::Dim::size)
            .collect::<Option<Vec<_>>>();
        let Some([n, k]) = sizes.as_deref() else {
            return Ok(());
        };
        let divides = |group: &u32| *group > 0 && k.is_multiple_of(*group as usize);
        let Some(group) = [self.group, 32].into_iter().find(divides) else {
            return Ok(());
        };
        if g.ty(*w).dtype != DType::F32 {
            return Ok(());
        }
        let quantize = |element, scale| ops::FakeQuantize {
            element,
            group: group.into(),
            scale,
        };
        let element = match *n == vocabulary && self.element.bits() <= 4 {
            true => Element::Q8,
            false => self.element,
        };
        *w = g.add(quantize(element, DType::F16), &[*w])?;
        if let Some(rows) = self.activations {
            *x = g.add(quantize(rows, DType::F32), &[*x])?;
        }
        Ok(())
    }
}

/// The program with every product's weight rounded to floats of another type, as which it is stored.
///
/// # Errors
/// An op that does not type-check.
pub fn round_weights(program: &mut Program, to: DType) -> Result<(), TypeError> {
    for graph in program.graphs.values_mut() {
        *graph = products(graph, |g, args| {
            args[1] = round(g, args[1], to)?;
            Ok(())
        })?;
    }
    Ok(())
}

/// The graph with what each product of a weight multiplies, `[x, w]`, replaced.
pub(super) fn products(
    graph: &Graph,
    mut replace: impl FnMut(&mut Graph, &mut [Value]) -> Result<(), TypeError>,
) -> Result<Graph, TypeError> {
    let known = weights_only(graph);
    graph.rebuild(|g, v, op, args| {
        let mut args = args.to_vec();
        if matches!(op, Op::Linear(_)) && known[graph.args(v)[1].index()] {
            replace(g, &mut args)?;
        }
        g.add(op.clone(), &args)
    })
}
