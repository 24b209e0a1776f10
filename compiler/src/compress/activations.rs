//! The element type of what weights multiply: a program that rounds it in front of each product. Where it is stored so follows from
//! that; decides nothing about kernels.

use super::rounding::products;
use ir::{DType, Program, TypeError, ops};

/// How activations are rounded that meet weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationType {
    /// Not at all.
    #[default]
    F32,
    /// To bf16, as frameworks do that run models in it. Sums, residuals and norms stay f32.
    Bf16,
}

impl ActivationType {
    /// Rounds what every product of a weight multiplies.
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
                if g.ty(args[0]).dtype == DType::F32 {
                    let narrow = g.add(ops::Cast { to }, &[args[0]])?;
                    args[0] = g.add(ops::Cast { to: DType::F32 }, &[narrow])?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
