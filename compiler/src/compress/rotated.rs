//! Rotated weights: inputs and weight are both multiplied by a Hadamard matrix, block by block, which changes no product and
//! spreads what is large of either over its block before it is rounded (QuIP, Chee et al. 2023, arXiv 2307.13304; QuaRot,
//! Ashkboos et al. 2024, arXiv 2404.00456). The rotated weight is GPTQ's, for inputs as they are or rounded as they come. Where
//! the inputs are rotated is the optimizer's: in the kernel that computes them, or in the weight that they come from.

use super::{
    Alternative, CompressError, Encoded, Form, Method, Problem, Sample, clip, dynamic::Dynamic,
    gptq::Gptq,
};
use ir::DType;

/// See the module's text.
pub struct Rotated;

/// Inputs of a block at most. More gain little (docs/compression.md), cost more sums, and are not in one head of attention, where
/// rotations of values are free.
const MOST: usize = 64;
/// Inputs of a block at least: of a group.
const LEAST: usize = 32;

/// Inputs of a block of `k`; `None` where no block divides them.
pub(super) fn block(k: usize) -> Option<usize> {
    let block = (k > 0).then(|| MOST.min(1 << k.trailing_zeros()));
    block.filter(|block| *block >= LEAST)
}

/// What says the rotated weight, and for which inputs.
fn inner(form: &Form) -> &'static dyn Method {
    match form {
        Form::Dynamic(_) => &Dynamic,
        _ => &Gptq,
    }
}

/// Whether a rotated weight is worth saying so: integers of 8 bits lose next to nothing by themselves.
fn worth(form: &Form) -> bool {
    clip::few(form) || matches!(form, Form::Dynamic(_))
}

impl Method for Rotated {
    fn name(&self) -> &'static str {
        "rotated"
    }

    fn forms(&self, shape: [usize; 2], stored: DType) -> Vec<Form> {
        let Some(block) = block(shape[1]) else {
            return vec![];
        };
        let methods: [&dyn Method; 2] = [&Gptq, &Dynamic];
        let forms = methods.into_iter().flat_map(|m| m.forms(shape, stored));
        forms
            .filter(worth)
            .map(|form| form.rotated(block))
            .collect()
    }

    fn alternatives(&self, sample: &Sample) -> Result<Vec<Alternative>, CompressError> {
        let Some(block) = block(sample.shape[1]) else {
            return Ok(vec![]);
        };
        let rotated = sample.rotated(block);
        let methods: [&dyn Method; 2] = [&Gptq, &Dynamic];
        let mut out = vec![];
        for method in methods {
            let offered = method.alternatives(&rotated)?.into_iter();
            out.extend(offered.filter(|a| worth(&a.form)).map(|a| Alternative {
                method: self.name().into(),
                form: a.form.rotated(block),
                ..a
            }));
        }
        Ok(out)
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        let own = block(problem.weight.columns);
        match form {
            Form::Rotated { block, weight } if own == Some(*block as usize) && worth(weight) => {
                let encode = |rotated: &Problem| inner(weight).encode(rotated, weight);
                let encoded = problem.rotated(*block as usize, encode)?;
                Ok(Encoded::Rotated {
                    block: *block,
                    weight: Box::new(encoded),
                })
            }
            _ => Err(CompressError::Form {
                method: self.name(),
                form: form.clone(),
            }),
        }
    }

    fn together(&self) -> bool {
        true
    }
}
