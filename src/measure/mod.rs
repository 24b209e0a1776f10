//! Measuring a model: agreement with a reference, quality on text, speed and what the machine could do. Works on
//! [`Session`](runtime::Session)s; knows nothing of where a model came from, and prints nothing.

mod compare;
mod divergence;
mod error;
pub mod latency;
mod perplexity;
mod reference;
pub mod roofline;
pub mod speed;
mod tagging;
mod work;

pub use compare::{Comparison, Divergence, OutputComparison, compare};
pub use divergence::{Agreement, Kl, argmax};
pub use error::Error;
pub use perplexity::{Perplexity, perplexity};
pub use reference::{Expected, Reference, Tolerance};
pub use tagging::{Example, Scores, tagging};
pub use work::{Step, Work};
