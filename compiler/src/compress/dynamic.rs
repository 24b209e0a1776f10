//! Integers all the way: the inputs of a weight of few bits are rounded to 8 bits as they come, each token's in the
//! weight's groups, so that products sum integers (dynamic quantization; per-token activations as in SmoothQuant's W8A8,
//! Xiao et al. 2022, arXiv 2211.10438). The weight is GPTQ's. Pays where kernels are limited by arithmetic.

use super::{
    Alternative, CompressError, Encoded, Form, Method, Problem, Sample,
    gptq::{self, Gptq},
    nearest,
};
use ir::DType;

/// See the module's text.
pub struct Dynamic;

impl Method for Dynamic {
    fn name(&self) -> &'static str {
        "dynamic"
    }

    fn forms(&self, [_, k]: [usize; 2], _: DType) -> Vec<Form> {
        let each = nearest::grouped(k).map(|form| Form::Dynamic(Box::new(form)));
        each.collect()
    }

    fn alternatives(&self, sample: &Sample) -> Result<Vec<Alternative>, CompressError> {
        let mut out = vec![];
        for form in self.forms(sample.shape, sample.stored) {
            // The weight is GPTQ's, whose error is known.
            if let Form::Dynamic(integers) = &form {
                let error = sample.error(&Gptq, integers)? + sample.error_of_inputs(integers)?;
                out.push(sample.alternative(self.name(), form, error));
            }
        }
        Ok(out)
    }

    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError> {
        match form {
            Form::Dynamic(form) => Ok(Encoded::Dynamic(gptq::grouped(problem, form)?)),
            _ => Err(CompressError::Form {
                method: self.name(),
                form: form.clone(),
            }),
        }
    }
}
