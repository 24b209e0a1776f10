//! Integers all the way: the inputs of a weight of few bits are rounded to 8 bits as they come, each token's in the
//! weight's groups, so that products sum integers (dynamic quantization; per-token activations as in SmoothQuant's W8A8,
//! Xiao et al. 2022, arXiv 2211.10438). The weight is GPTQ's. Pays where kernels are limited by arithmetic.

use super::{Alternative, CompressError, Encoded, Form, Method, Problem, nearest};

/// See the module's text.
pub struct Dynamic;

impl Method for Dynamic {
    fn name(&self) -> &'static str {
        "dynamic"
    }

    fn alternatives(&self, problem: &Problem) -> Result<Vec<Alternative>, CompressError> {
        let feedback = problem.moments.feedback()?;
        let each = nearest::grouped(problem.weight.columns).map(|form| {
            let encoded = Encoded::Dynamic(feedback.grouped(problem, &form)?);
            Ok(Alternative::of(self.name(), problem, &encoded))
        });
        each.collect()
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        match form {
            Form::Dynamic(form) => {
                let feedback = problem.moments.feedback()?;
                Ok(Encoded::Dynamic(feedback.grouped(problem, form)?))
            }
            _ => Err(CompressError::Form {
                method: self.name(),
                form: form.clone(),
            }),
        }
    }
}
