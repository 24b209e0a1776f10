//! A plan under a budget: what to watch while a text runs ([`Observed`], [`Sums`]), and which of its alternatives each
//! weight gets ([`knapsack`]). Measures nothing: times, errors and sensitivities are given.

pub mod knapsack;
mod moments;
mod observe;

pub use moments::Sums;
pub use observe::{Observed, PROBE};
