//! Other ways to say a weight. A [`Method`] is given a weight with statistics of its inputs (a [`Problem`]) and offers
//! [`Alternative`]s: a [`Form`], its bytes, and the error it makes. What is chosen is [encoded](Method::encode) again, so
//! that a plan of forms is small and no numbers are kept that nobody wants. Chooses nothing.
//!
//! One file a method, and a line in [`METHODS`].

mod activations;
mod apply;
pub mod awq;
mod cache;
pub mod clip;
pub mod dynamic;
mod encoded;
mod form;
pub mod gptq;
mod inputs;
pub mod low_rank;
mod matrix;
pub mod nearest;
mod problem;
pub mod qr;
pub mod residual;
pub mod rotated;
mod rounding;
mod sample;
mod sites;
mod spectrum;

pub use activations::ActivationType;
pub use apply::{Overlay, apply};
pub use cache::{CacheError, CacheType};
pub use encoded::{Encoded, Grouped};
pub use form::Form;
pub use inputs::Inputs;
pub use matrix::Matrix;
pub use problem::{Moments, Problem};
pub use rounding::{Rounding, round_weights};
pub use sample::Sample;
pub use sites::{Site, sites};

use ir::DType;
use serde::{Deserialize, Serialize};

/// Every method, the cheapest first.
pub const METHODS: &[&dyn Method] = &[
    &nearest::Nearest,
    &clip::Clip,
    &awq::Awq,
    &gptq::Gptq,
    &dynamic::Dynamic,
    &rotated::Rotated,
    &qr::Qr,
    &low_rank::Svd,
    &residual::Residual,
];

/// The method of that name.
pub fn method(name: &str) -> Option<&'static dyn Method> {
    METHODS.iter().copied().find(|m| m.name() == name)
}

/// A source of alternatives for weights.
pub trait Method: Sync {
    /// Unique; as in plans and reports.
    fn name(&self) -> &'static str;

    /// How it says weights `[N, K]` that are stored so. Empty where the method has nothing to offer: a weight whose inputs no group
    /// divides is not rounded to groups.
    fn forms(&self, shape: [usize; 2], stored: DType) -> Vec<Form>;

    /// The weight in one of the forms: the same numbers every time.
    ///
    /// # Errors
    /// A form that the method does not offer. See [`Problem::check`], which the caller has asked.
    fn encode(&self, problem: &Problem, form: &Form) -> Result<Encoded, CompressError>;

    /// Whether its numbers follow from how inputs go together, and not only from how large they are.
    fn together(&self) -> bool {
        false
    }

    /// Other ways to say the weight, with errors told from a sample of it. Of methods that say each row by itself.
    ///
    /// # Errors
    /// As [`Method::encode`].
    fn alternatives(&self, sample: &Sample) -> Result<Vec<Alternative>, CompressError> {
        let forms = self.forms(sample.shape, sample.stored).into_iter();
        let each = forms.map(|form| {
            let error = sample.error(self, &form)?;
            Ok(sample.alternative(self.name(), form, error))
        });
        each.collect()
    }
}

/// Another way to say a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// Name of the method that offers it.
    pub method: String,
    /// How the weight is said.
    pub form: Form,
    /// What that takes.
    pub bytes: u64,
    /// What it costs: [`Problem::error_of`], from a sample of large weights.
    pub error: f64,
}

/// Why there is no alternative.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompressError {
    /// NaN or infinity where a number is needed.
    #[error(
        "{what} hold a number that is not finite (or a negative weight): nothing can be said of errors"
    )]
    NotFinite {
        /// Where.
        what: &'static str,
    },
    /// Sizes that do not fit together.
    #[error("{what} of size {found} do not fit a weight that has {wanted}")]
    Sizes {
        /// Of what.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The weight's.
        wanted: usize,
    },
    /// Statistics of nothing.
    #[error("statistics of no token at all: calibrate on some text")]
    NoRows,
    /// Second moments that are those of no inputs.
    #[error(
        "the inputs' second moments have a negative eigenvalue: they are those of no inputs; calibrate again"
    )]
    Indefinite,
    /// A method asks how inputs go together, where that is not known.
    #[error(
        "of the inputs only mean squares are known, not how they go together: a bug in what estimates errors"
    )]
    Alone,
    /// An iteration that does not end.
    #[error("eigenvalues of the outputs' second moments do not converge")]
    NoConvergence,
    /// A form that a method does not give.
    #[error("method {method} does not give {form}")]
    Form {
        /// The method.
        method: &'static str,
        /// What was asked of it.
        form: Form,
    },
}
