//! Artifact to outputs: loading, sessions, generation. Depends on `ir` alone; no compiler inside.
//!
//! [`Model`] is immutable and shared; a [`Session`] holds what changes between steps.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod batch;
pub mod devices;
mod encode;
mod error;
mod generate;
pub mod kernels;
mod model;
pub mod pool;
mod prepared;
pub mod sample;
mod session;
pub mod tokenizer;
mod trace;

pub use encode::{EncoderInput, Outputs, Rows};
pub use error::Error;
pub use generate::{Continuation, Finish, Generation};
pub use model::Model;
pub use prepared::Prepared;
pub use session::{Chunk, Logits, Options, Select, Session};
pub use trace::Trace;
