//! Measuring a model: agreement with a reference, quality on text, speed and what the machine could do. Works on
//! [`Session`](runtime::Session)s; knows nothing of where a model came from, and prints nothing.

mod compare;
mod divergence;
mod error;
mod forward;
mod hidden;
pub mod latency;
mod layers;
mod perplexity;
pub mod prediction;
mod reference;
pub mod roofline;
pub mod speed;
mod tagging;
pub mod trace;
mod work;

pub use compare::{Comparison, Divergence, OutputComparison, Parting, compare};
pub use divergence::{Agreement, Kl};
pub(crate) use divergence::{kl_of_rows, loss_of_rows};
pub use error::Error;
pub use layers::{LayerComparison, Layers, compare_layers};
pub use perplexity::{Perplexity, perplexity};
pub use reference::{Expected, Reference, Tolerance};
pub use runtime::sample::argmax;
pub(crate) use tagging::{Counts as Tags, tags};
pub use tagging::{Example, Scores, tagging};
pub use work::{Step, Work};
